package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// Connection says how to reach the batch system.
// +kubebuilder:validation:XValidation:rule="!has(self.type) || self.type != 'ssh' || has(self.ssh)",message="connection.ssh is required for connection type ssh"
// +kubebuilder:validation:XValidation:rule="!has(self.type) || self.type != 'rest' || has(self.rest)",message="connection.rest is required for connection type rest"
type Connection struct {
	// Type "cli" runs the batch system's commands on the host of the daemon, "ssh"
	// runs them on a login node, "rest" speaks to slurmrestd. With "rest", files
	// are handed over by ssh when that is given, else on the daemon's own host.
	// +kubebuilder:validation:Enum=cli;ssh;rest
	// +kubebuilder:default=cli
	// +optional
	Type string `json:"type,omitempty"`

	// Env is added to the environment of the batch system's commands, for
	// example SLURM_CONF.
	// +optional
	Env map[string]string `json:"env,omitempty"`

	// SSH says how login nodes are reached.
	// +optional
	SSH *SSHConnection `json:"ssh,omitempty"`

	// REST says how slurmrestd is reached.
	// +optional
	REST *RESTConnection `json:"rest,omitempty"`

	// Federation is the name of the cluster within a Slurm federation or
	// multi-cluster set-up (option -M); empty is the local one.
	// +kubebuilder:validation:Pattern=`^[A-Za-z0-9_][A-Za-z0-9_-]*$`
	// +optional
	Federation string `json:"federation,omitempty"`
}

// KeySelector names one key of a Secret.
type KeySelector struct {
	// Namespace of the Secret; empty is the daemon's own.
	// +optional
	Namespace string `json:"namespace,omitempty"`
	// Name of the Secret.
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// Key within the Secret; what an empty one means is said where it is used.
	// +optional
	Key string `json:"key,omitempty"`
}

// SSHConnection says how login nodes are reached.
//
// +kubebuilder:validation:XValidation:rule="[has(self.knownHosts) && size(self.knownHosts) > 0, has(self.knownHostsFile) && size(self.knownHostsFile) > 0, has(self.knownHostsSecretRef)].filter(x, x).size() == 1",message="exactly one of knownHosts, knownHostsFile and knownHostsSecretRef is needed: an unknown host is never talked to"
// +kubebuilder:validation:XValidation:rule="has(self.keyFile) || has(self.keySecretRef) || has(self.agentSocket) || has(self.controlPath)",message="one of keyFile, keySecretRef, agentSocket and controlPath is needed"
type SSHConnection struct {
	// Hosts are the login nodes, host or host:port, in the order they are tried.
	// +kubebuilder:validation:MinItems=1
	Hosts []string `json:"hosts"`
	// User to log in as. Empty: every mapped user logs in as himself.
	// +optional
	User string `json:"user,omitempty"`
	// Become "sudo" runs the commands of mapped users by "sudo -n -u USER" from
	// the login user; "login" logs in as each mapped user.
	// +kubebuilder:validation:Enum=login;sudo
	// +kubebuilder:default=login
	// +optional
	Become string `json:"become,omitempty"`
	// KeyFile is a private key on the daemon's host, or a directory with one file
	// per user, <user>, and certificates <user>-cert.pub.
	// +optional
	KeyFile string `json:"keyFile,omitempty"`
	// KeySecretRef names a Secret with private keys: "ssh-privatekey" for all
	// users, "<user>" for one user, and certificates under the same name with
	// "-cert.pub" behind it.
	// +optional
	KeySecretRef *KeySelector `json:"keySecretRef,omitempty"`
	// CertificateFile is an OpenSSH certificate for KeyFile.
	// +optional
	CertificateFile string `json:"certificateFile,omitempty"`
	// AgentSocket is the socket of an ssh-agent, for sites where people unlock keys.
	// +optional
	AgentSocket string `json:"agentSocket,omitempty"`
	// ControlPath is the socket of an OpenSSH master connection that a person
	// opened, for sites with a second factor.
	// +optional
	ControlPath string `json:"controlPath,omitempty"`
	// KnownHosts holds lines of a known_hosts file. One of KnownHosts,
	// KnownHostsFile and KnownHostsSecretRef is required: an unknown host is
	// never talked to.
	// +optional
	KnownHosts string `json:"knownHosts,omitempty"`
	// KnownHostsFile is such a file on the daemon's host.
	// +optional
	KnownHostsFile string `json:"knownHostsFile,omitempty"`
	// KnownHostsSecretRef names a Secret's key; the default key is "known_hosts".
	// +optional
	KnownHostsSecretRef *KeySelector `json:"knownHostsSecretRef,omitempty"`
	// ProxyJump are the hosts to go through, [user@]host[:port], nearest first.
	// +optional
	ProxyJump []string `json:"proxyJump,omitempty"`
	// MaxSessions bounds the sessions at once on one connection. Default 8.
	// +kubebuilder:validation:Minimum=2
	// +optional
	MaxSessions int32 `json:"maxSessions,omitempty"`
	// Keepalive is the time between signs of life. Default 15s.
	// +optional
	Keepalive *metav1.Duration `json:"keepalive,omitempty"`
	// ConnectTimeout bounds the making of a connection. Default 15s.
	// +optional
	ConnectTimeout *metav1.Duration `json:"connectTimeout,omitempty"`
}

// RESTConnection says how slurmrestd is reached. One of TokenFile,
// TokenSecretRef, JWTKeyFile and JWTKeySecretRef is required.
//
// +kubebuilder:validation:XValidation:rule="[has(self.tokenFile), has(self.tokenSecretRef), has(self.jwtKeyFile), has(self.jwtKeySecretRef)].filter(x, x).size() == 1",message="exactly one of tokenFile, tokenSecretRef, jwtKeyFile and jwtKeySecretRef is needed"
type RESTConnection struct {
	// URL is https://host:port, unix:///path/to/socket, or http:// on loopback.
	// +kubebuilder:validation:Pattern=`^(https?|unix)://`
	URL string `json:"url"`
	// CAFile is the authority of an https server, on the daemon's host.
	// +optional
	CAFile string `json:"caFile,omitempty"`
	// TokenFile holds one token for all, or is a directory with a file per user.
	// +optional
	TokenFile string `json:"tokenFile,omitempty"`
	// TokenSecretRef names a Secret: its key, or the key named after each user.
	// +optional
	TokenSecretRef *KeySelector `json:"tokenSecretRef,omitempty"`
	// JWTKeyFile is the HS256 key from which tokens per user are made.
	// +optional
	JWTKeyFile string `json:"jwtKeyFile,omitempty"`
	// JWTKeySecretRef names a Secret's key; the default key is "jwt_hs256.key".
	// +optional
	JWTKeySecretRef *KeySelector `json:"jwtKeySecretRef,omitempty"`
	// TokenLifetime of tokens made here, at most 1h. Default 30m.
	// +optional
	TokenLifetime *metav1.Duration `json:"tokenLifetime,omitempty"`
}
