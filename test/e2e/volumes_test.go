package e2e

import (
	"encoding/base64"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// running waits for the only pod of a Job.
func running(t *testing.T, ns, pod string) {
	t.Helper()
	eventually(t, 2*time.Minute, pod+" runs", func() (bool, string) {
		out, err := tryKubectl(t, "get", "pod", pod, "-n", ns, "-o", "jsonpath={.status.phase}")
		return err == nil && out == "Running", out
	})
}

// logged waits until a pod has said something.
func logged(t *testing.T, ns, pod, want string, limit time.Duration) {
	t.Helper()
	eventually(t, limit, pod+" says "+want, func() (bool, string) {
		out, _ := tryKubectl(t, "logs", "-n", ns, pod)
		return strings.Contains(out, want), out
	})
}

func setConfigMap(t *testing.T, ns, name, value string) {
	t.Helper()
	apply(t, ns, "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: "+name+"}\ndata: {word: "+value+"}\n")
}

// ConfigMaps, labels and an optional ConfigMap that comes later reach a job that
// runs, also when the daemon was away when they changed.
func TestLiveVolumes(t *testing.T) {
	ns := namespace(t, account.Alice)
	setConfigMap(t, ns, "words", "one")
	apply(t, ns, job{Name: "live", Replicas: 2, Script: `last=
while test "$last" != "three|old|here"; do
  now="$(cat /v/word)|$(sed -n 's/^phase="\(.*\)"$/\1/p' /v/labels)|$(cat /v/later 2>/dev/null)"
  test "$now" = "$last" || echo "now $now sub $(cat /sub)"
  last="$now"; sleep 0.2
done`,
		Extra: "          volumeMounts: [{name: v, mountPath: /v}, {name: v, mountPath: /sub, subPath: word}]",
		Pod: `        volumes:
        - name: v
          projected:
            sources:
            - configMap: {name: words}
            - configMap: {name: later, optional: true, items: [{key: word, path: later}]}
            - downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}`}.yaml())
	pods := []string{"live-task-0", "live-task-1"}
	for _, pod := range pods {
		running(t, ns, pod)
		logged(t, ns, pod, "now one|| sub one", time.Minute)
	}
	setConfigMap(t, ns, "words", "two")
	for _, pod := range pods {
		logged(t, ns, pod, "now two|| sub one", 3*time.Minute)
		kubectl(t, "label", "pod", "-n", ns, pod, "phase=old")
		logged(t, ns, pod, "now two|old| sub one", time.Minute)
	}
	for _, p := range here(t).Processes() {
		if strings.HasPrefix(p.Name, "vnode") {
			if err := p.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	setConfigMap(t, ns, "words", "three")
	setConfigMap(t, ns, "later", "here")
	if err := here(t).Repair(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, pod := range pods {
		logged(t, ns, pod, "now three|old|here sub one", 3*time.Minute)
	}
	phase(t, ns, "live", "Completed", time.Minute)
}

// A token lives for an hour at most, belongs to the pod, is its user's alone, and
// dies with the pod.
func TestTokens(t *testing.T) {
	ns := namespace(t, account.Alice)
	explicit := `        volumes:
        - name: vault
          projected: {sources: [{serviceAccountToken: {path: token, audience: vault, expirationSeconds: 86400}}]}`
	mount := "          volumeMounts: [{name: vault, mountPath: /vault}]"
	apply(t, ns, job{Name: "refused", Replicas: 1, Script: "true", Pod: explicit, Extra: mount}.yaml())
	told(t, ns, "serviceAccountToken", "spec.accounts")
	kubectl(t, "delete", "vcjob", "refused", "-n", ns)

	kubectl(t, "label", "namespace", ns, "test-tokens=yes")
	apply(t, ns, job{Name: "keen", Replicas: 1, Pod: explicit, Extra: mount + "\n          env: [{name: LD_LIBRARY_PATH, value: /opt/lib}, {name: PATH, value: \"/usr/bin:/bin\"}]", Script: `
cd /var/run/secrets/kubernetes.io/serviceaccount
echo "mode $(stat -L -c %a token) $(stat -L -c %a /vault/token) namespace $(cat namespace) ca $(head -1 ca.crt)"
echo "server $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT path $PATH lib $LD_LIBRARY_PATH"
while :; do sleep 1; done`}.yaml())
	running(t, ns, "keen-task-0")
	logged(t, ns, "keen-task-0", "mode 600 600 namespace "+ns+" ca -----BEGIN CERTIFICATE-----", time.Minute)
	logged(t, ns, "keen-task-0", "path /usr/bin:/bin lib /opt/lib", time.Minute)
	uid := kubectl(t, "get", "pod", "keen-task-0", "-n", ns, "-o", "jsonpath={.metadata.uid}")

	files, err := filepath.Glob(filepath.Join(here(t).Staging, account.Alice, "g", "*", "pods", "0", "live", "*", "token"))
	if err != nil || len(files) != 2 {
		t.Fatalf("token files %v, %v", files, err)
	}
	client, err := kubernetes.NewForConfig(here(t).RESTConfig())
	if err != nil {
		t.Fatal(err)
	}
	review := func(token, audience string) (authenticated bool) {
		t.Helper()
		r := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
		if audience != "" {
			r.Spec.Audiences = []string{audience}
		}
		out, err := client.AuthenticationV1().TokenReviews().Create(t.Context(), r, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return out.Status.Authenticated
	}
	tokens := map[string]string{} // token -> audience to ask for
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var claims struct {
			Exp, Iat   int64
			Aud        []string
			Kubernetes struct {
				Pod struct{ UID string }
			} `json:"kubernetes.io"`
		}
		parts := strings.Split(string(data), ".")
		body, err := base64.RawURLEncoding.DecodeString(parts[1])
		if err == nil {
			err = json.Unmarshal(body, &claims)
		}
		if err != nil {
			t.Fatal(err)
		}
		if life := claims.Exp - claims.Iat; life > 3600 || life < 600 {
			t.Errorf("a token for %v lives for %d s", claims.Aud, life)
		}
		if claims.Kubernetes.Pod.UID != uid {
			t.Errorf("the token is bound to pod %q, want %q", claims.Kubernetes.Pod.UID, uid)
		}
		audience := ""
		if len(claims.Aud) == 1 && claims.Aud[0] == "vault" {
			audience = "vault"
		}
		tokens[string(data)] = audience
		st, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if st.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %o", file, st.Mode().Perm())
		}
	}
	for token, audience := range tokens {
		if !review(token, audience) {
			t.Errorf("the API server does not know the token for %q", audience)
		}
	}
	golden(t, filepath.Join(here(t).Staging, account.Alice, "g"))
	kubectl(t, "delete", "vcjob", "keen", "-n", ns)
	eventually(t, 90*time.Second, "the pod is gone", func() (bool, string) {
		out, err := tryKubectl(t, "get", "pod", "keen-task-0", "-n", ns, "--ignore-not-found")
		return err == nil && out == "", out
	})
	eventually(t, time.Minute, "its tokens are dead", func() (bool, string) {
		for token, audience := range tokens {
			if review(token, audience) {
				return false, "alive: " + audience
			}
		}
		return true, ""
	})
	gang := strings.Split(strings.TrimPrefix(files[0], filepath.Join(here(t).Staging, account.Alice, "g")+"/"), "/")[0]
	eventually(t, time.Minute, "nothing of it is left in the staging directory", func() (bool, string) {
		left, _ := filepath.Glob(filepath.Join(here(t).Staging, account.Alice, "g", "*"+gang+"*"))
		return len(left) == 0, strings.Join(left, " ")
	})
}

// golden holds that all that was staged is its user's alone: what others could
// read lies behind directories that they cannot enter.
func golden(t *testing.T, top string) {
	t.Helper()
	owner, err := os.Stat(top)
	if err != nil {
		t.Fatal(err)
	}
	uid := owner.Sys().(*syscall.Stat_t).Uid
	seen := 0
	err = filepath.WalkDir(top, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return nil // it went while we looked
		}
		st, err := d.Info()
		if err != nil {
			return nil
		}
		seen++
		if got := st.Sys().(*syscall.Stat_t).Uid; got != uid {
			t.Errorf("%s belongs to %d, not to %d", p, got, uid)
		}
		rel, _ := filepath.Rel(top, p)
		elements := strings.Split(rel, "/")
		live := len(elements) > 4 && elements[1] == "pods" && elements[3] == "live" // behind directories of 0700, as containers see it
		switch mode := st.Mode(); {
		case live || mode&os.ModeSymlink != 0:
		case mode.IsDir() && mode.Perm() != 0o700:
			t.Errorf("directory %s has mode %o", p, mode.Perm())
		case mode.IsRegular() && mode.Perm()&^0o700 != 0 && filepath.Base(p) != "hosts" && filepath.Base(p) != "batch.log":
			t.Errorf("file %s has mode %o", p, mode.Perm())
		}
		return nil
	})
	if err != nil || seen < 10 {
		t.Errorf("looked at %d paths in %s: %v", seen, top, err)
	}
}

// A claim is a directory of the cluster.
func TestClaim(t *testing.T) {
	ns := namespace(t, account.Alice)
	top := filepath.Join(os.TempDir(), "isthmus-e2e-claims")
	if err := os.MkdirAll(filepath.Join(top, account.Alice), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(top, account.Alice), 0o777); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		kubectlAfter(t, "delete", "pv", ns, "--ignore-not-found", "--wait=false")
		if err := os.RemoveAll(top); err != nil {
			t.Error(err)
		}
	})
	apply(t, ns, `
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {storageClassName: hpc, accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}
`)
	apply(t, ns, job{Name: "keeps", Replicas: 1, Script: "echo kept > /data/file", Extra: "          volumeMounts: [{name: data, mountPath: /data}]",
		Pod: "        volumes: [{name: data, persistentVolumeClaim: {claimName: data}}]"}.yaml())
	told(t, ns, "data", "not bound")
	apply(t, ns, `
apiVersion: v1
kind: PersistentVolume
metadata: {name: `+ns+`}
spec:
  storageClassName: hpc
  accessModes: [ReadWriteMany]
  capacity: {storage: 1Gi}
  claimRef: {namespace: `+ns+`, name: data}
  persistentVolumeReclaimPolicy: Retain
  hostPath: {path: /nowhere}
`)
	phase(t, ns, "keeps", "Completed", 3*time.Minute)
	if data, err := os.ReadFile(filepath.Join(top, account.Alice, ns+"-data", "file")); err != nil || string(data) != "kept\n" {
		t.Errorf("the claim's directory holds %q, %v", data, err)
	}
}
