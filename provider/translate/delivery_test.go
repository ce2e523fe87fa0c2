package translate_test

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	hpcv1alpha1 "github.com/isthmus-hpc/isthmus/controllers/api/hpc/v1alpha1"
	"github.com/isthmus-hpc/isthmus/provider/translate"
)

// tokenPod has the volume that the API server adds, and one for a vault.
func tokenPod() *corev1.Pod {
	p := newPod(0)
	p.Spec.Volumes = []corev1.Volume{
		{Name: "kube-api-access-abcde", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{DefaultMode: ptr(int32(0o644)), Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr(int64(3607))}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: cmRef("kube-root-ca.crt"), Items: []corev1.KeyToPath{{Key: "ca.crt", Path: "ca.crt"}}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
		}}}},
		{Name: "vault", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "t", Audience: "vault", ExpirationSeconds: ptr(int64(900))}},
		}}}},
	}
	for _, v := range p.Spec.Volumes {
		main(p).VolumeMounts = append(main(p).VolumeMounts, corev1.VolumeMount{Name: v.Name, MountPath: "/run/" + v.Name})
	}
	return p
}

var apiToken, vaultToken = translate.TokenRequest{Seconds: 3600}, translate.TokenRequest{Audience: "vault", Seconds: 900}

func tokenInput(p *corev1.Pod) translate.Input {
	in := input(p)
	in.Account.ServiceAccountTokens, in.APIServer = true, "api.example.org:6443"
	in.Members[0].ConfigMaps = map[string]*corev1.ConfigMap{"kube-root-ca.crt": {Data: map[string]string{"ca.crt": "PEM"}}}
	in.Members[0].Tokens = map[translate.TokenRequest]string{apiToken: "jwt-api", vaultToken: "jwt-vault"}
	in.Members[0].RenewAt = metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	return in
}

func TestTokens(t *testing.T) {
	p := tokenPod()
	if got := translate.Tokens(p); len(got) != 2 || got[0] != apiToken || got[1] != vaultToken {
		t.Errorf("requests %+v: no token may live longer than an hour", got)
	}
	in := tokenInput(p)
	out, err := translate.Gang(in)
	if err != nil {
		t.Fatal(err)
	}
	auto := out.Files[0]["kube-api-access-abcde"]
	if f := auto["token"]; string(f.Data) != "jwt-api" || f.Mode != 0o600 || !f.Token {
		t.Errorf("token %+v", f)
	}
	if string(auto["ca.crt"].Data) != "PEM" || string(auto["namespace"].Data) != "team" || auto["ca.crt"].Mode != 0o644 {
		t.Errorf("beside the token: %+v", auto)
	}
	if f := out.Files[0]["vault"]["t"]; string(f.Data) != "jwt-vault" || f.Mode != 0o600 {
		t.Errorf("token for another audience %+v", f)
	}
	m := out.Pods[0]
	if !m.Contents.RenewAt.Equal(&in.Members[0].RenewAt) || m.Contents.Digest == "" {
		t.Errorf("contents %+v", m.Contents)
	}
	if e := m.Env["main"]; len(e) != 3 || e[0].Name != "KUBERNETES_SERVICE_HOST" || string(e[0].Value) != "api.example.org" || string(e[1].Value) != "6443" {
		t.Errorf("environment %+v", e)
	}

	// A renewed token is the same content; another ConfigMap is not.
	in.Members[0].Tokens[apiToken] = "jwt-2"
	fresh, err := translate.Contents(in, in.Members[0])
	if err != nil {
		t.Fatal(err)
	}
	if fresh.Update.Contents.Digest != m.Contents.Digest || len(fresh.Update.Volumes) != 2 || string(fresh.Files["kube-api-access-abcde"]["token"].Data) != "jwt-2" {
		t.Errorf("update %+v", fresh.Update)
	}
	in.Members[0].ConfigMaps["kube-root-ca.crt"].Data["ca.crt"] = "PEM2"
	if fresh, err = translate.Contents(in, in.Members[0]); err != nil || fresh.Update.Contents.Digest == m.Contents.Digest {
		t.Errorf("the digest does not show the change: %v", err)
	}
	delete(in.Members[0].ConfigMaps, "kube-root-ca.crt")
	_, err = translate.Contents(in, in.Members[0])
	wantRefusal(t, err, "spec.volumes[0].projected.sources[1].configMap", false)

	// Without the account's word nothing is delivered, and an explicit wish is refused.
	in = tokenInput(tokenPod())
	in.Account.ServiceAccountTokens = false
	_, err = translate.Gang(in)
	wantRefusal(t, err, "spec.volumes[1].projected.sources[0].serviceAccountToken", true)
}

// A Secret with a token that never ends does not get to the compute hosts, whatever asks for it.
func TestLongLivedTokens(t *testing.T) {
	for field, change := range map[string]func(*corev1.Pod){
		"spec.volumes[0].secret": func(p *corev1.Pod) {
			volume(p, corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "old"}})
		},
		"spec.volumes[0].projected.sources[0].secret": projected(corev1.VolumeProjection{Secret: &corev1.SecretProjection{LocalObjectReference: cmRef("old")}}),
		"spec.containers[0].envFrom[0].secretRef": func(p *corev1.Pod) {
			main(p).EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: cmRef("old")}}}
		},
		"spec.containers[0].env[0].valueFrom.secretKeyRef": func(p *corev1.Pod) {
			main(p).Env = []corev1.EnvVar{{Name: "T", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: cmRef("old"), Key: "token"}}}}
		},
	} {
		p := newPod(0)
		change(p)
		in := input(p)
		in.Account.ServiceAccountTokens = true
		in.Members[0].Secrets = map[string]*corev1.Secret{"old": {Type: corev1.SecretTypeServiceAccountToken, Data: map[string][]byte{"token": []byte("jwt")}}}
		_, err := translate.Gang(in)
		wantRefusal(t, err, field, true)
	}
}

func TestClaims(t *testing.T) {
	classes := []hpcv1alpha1.VolumeClass{
		{StorageClassName: "scratch", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": "fast"}}, Path: "/fast/{user}/{namespace}-{claim}"},
		{StorageClassName: "scratch", Path: "/scratch/{user}/{claim}"},
		{StorageClassName: "data", Path: "/data/shared", ReadOnly: true},
		{StorageClassName: "broken", Path: "/data/../etc"},
	}
	claim := func(class string, change ...func(*corev1.PersistentVolumeClaim)) *corev1.PersistentVolumeClaim {
		c := &corev1.PersistentVolumeClaim{
			Spec:   corev1.PersistentVolumeClaimSpec{StorageClassName: &class, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}},
			Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
		}
		for _, f := range change {
			f(c)
		}
		return c
	}
	const field = "spec.volumes[0].persistentVolumeClaim.claimName"
	for name, tc := range map[string]struct {
		claim     *corev1.PersistentVolumeClaim
		readOnly  bool
		path      string
		writes    bool
		permanent bool // of the refusal when path is empty
	}{
		"by class":         {claim: claim("scratch"), path: "/scratch/alice/c", writes: true},
		"by label":         {claim: claim("scratch", func(c *corev1.PersistentVolumeClaim) { c.Labels = map[string]string{"tier": "fast"} }), path: "/fast/alice/team-c", writes: true},
		"read-only class":  {claim: claim("data"), path: "/data/shared"},
		"read-only volume": {claim: claim("scratch"), readOnly: true, path: "/scratch/alice/c"},
		"read-only claim": {claim: claim("scratch", func(c *corev1.PersistentVolumeClaim) {
			c.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadOnlyMany}
		}), path: "/scratch/alice/c"},
		"no such claim":      {},
		"unbound":            {claim: claim("scratch", func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimPending })},
		"lost":               {claim: claim("scratch", func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = corev1.ClaimLost }), permanent: true},
		"no class matches":   {claim: claim("other"), permanent: true},
		"class leads astray": {claim: claim("broken")},
		"block device":       {claim: claim("scratch", func(c *corev1.PersistentVolumeClaim) { c.Spec.VolumeMode = ptr(corev1.PersistentVolumeBlock) }), permanent: true},
		"claim goes":         {claim: claim("scratch", func(c *corev1.PersistentVolumeClaim) { c.DeletionTimestamp = ptr(metav1.Now()) })},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPod(0)
			volume(p, corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "c", ReadOnly: tc.readOnly}})
			main(p).VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/v"}}
			in := input(p)
			in.Cluster.Spec.VolumeClasses = classes
			if tc.claim != nil {
				in.Members[0].Claims = map[string]*corev1.PersistentVolumeClaim{"c": tc.claim}
			}
			out, err := translate.Gang(in)
			if tc.path == "" {
				wantRefusal(t, err, field, tc.permanent)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if v := out.Pods[0].Volumes["v"]; v.Kind != "hostPath" || v.Path != tc.path || v.ReadOnly == tc.writes || len(v.Beneath) != 1 {
				t.Errorf("volume %+v, want %s", v, tc.path)
			}
		})
	}
	p := newPod(0)
	volume(p, corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "../../etc"}})
	_, err := translate.Gang(input(p))
	wantRefusal(t, err, field, true)
}

func TestAllowedEnvironment(t *testing.T) {
	p := newPod(0)
	env("LD_LIBRARY_PATH", "SLURM_MPI_TYPE")(p)
	in := input(p)
	in.Account.AllowEnv = []string{"LD_LIBRARY_PATH", "SLURM_MPI_*"}
	if _, err := translate.Gang(in); err != nil {
		t.Error(err)
	}
	env("LD_PRELOAD")(p)
	_, err := translate.Gang(in)
	wantRefusal(t, err, "spec.containers[0].env[2].name", true)
}

// The launcher watches the time limit where the batch system gives no signal.
func TestLimitIsHandedOver(t *testing.T) {
	for _, tc := range []struct {
		system, connection string
		want               int64
	}{{"slurm", "cli", 0}, {"slurm", "ssh", 0}, {"slurm", "rest", 7200}, {"pbs", "cli", 7200}, {"torque", "ssh", 7200}, {"local", "", 7200}} {
		p := newPod(0)
		p.Spec.TerminationGracePeriodSeconds = ptr(int64(20))
		p.Annotations["isthmus.sh/walltime"] = "2h"
		in := input(p)
		in.Cluster.Spec.Type, in.Cluster.Spec.Connection.Type = tc.system, tc.connection
		out, err := translate.Gang(in)
		if err != nil {
			t.Fatal(err)
		}
		if out.Gang.LimitSeconds != tc.want || out.Gang.GraceSeconds != 20 {
			t.Errorf("%+v: limit %d s, grace %d s", tc, out.Gang.LimitSeconds, out.Gang.GraceSeconds)
		}
	}
}

func TestGraceIsCapped(t *testing.T) {
	p := newPod(0)
	p.Spec.TerminationGracePeriodSeconds = ptr(int64(600))
	in := input(p)
	in.Cluster.Spec.Walltime.Grace = &metav1.Duration{Duration: 30 * time.Second}
	out, err := translate.Gang(in)
	if err != nil {
		t.Fatal(err)
	}
	if out.Pods[0].GraceSeconds != 30 || out.Spec.Grace != 30*time.Second || len(out.Notes) != 1 {
		t.Errorf("grace %d, %s, notes %q", out.Pods[0].GraceSeconds, out.Spec.Grace, out.Notes)
	}
}

// Ids that the cluster has not told yet are waited for.
func TestIdentityIsAwaited(t *testing.T) {
	p := newPod(0)
	p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr(int64(1001)), FSGroup: ptr(int64(2000))}
	in := input(p)
	in.UID, in.GID, in.Groups = 0, 0, nil
	_, err := translate.Gang(in)
	wantRefusal(t, err, "spec.securityContext.runAsUser", false)
	wantRefusal(t, err, "spec.securityContext.fsGroup", false)
}
