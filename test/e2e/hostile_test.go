package e2e

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/isthmus-hpc/isthmus/test/testbed/account"
)

// hostileValues are legal as data and dangerous as text.
func hostileValues(mark string) map[string]string {
	return map[string]string{
		"QUOTES":   `'"` + "`touch " + mark + "`",
		"SUBST":    "$(touch " + mark + ") ${IFS} $$(X) $(NOT_SET)",
		"NEWLINES": "a\n#SBATCH --comment=evil\ntouch " + mark + "\n",
		"DASH":     "--wrap=touch " + mark,
		"SEMI":     "; touch " + mark + " & | > < \\",
		"UNICODE":  "\u00fcn\u00ef-c\u00f6d\u00e9 \u202e \t \x07",
	}
}

// Hostile text in a pod is executed nowhere and arrives byte for byte.
func TestHostileValues(t *testing.T) {
	ns := namespace(t, account.Alice)
	mark := filepath.Join(os.TempDir(), fmt.Sprintf("isthmus-pwned-%d", os.Getpid()))
	t.Cleanup(func() { _ = os.Remove(mark) })
	values := hostileValues(mark)

	binary := string([]byte{0xff, 0xfe, 'x', 0x80, 0xc3, 0x28})
	secret := map[string]any{
		"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "raw"},
		"data": map[string]string{"bytes": base64.StdEncoding.EncodeToString([]byte(binary))},
	}
	apply(t, ns, asJSON(t, secret))

	env := []map[string]any{}
	want := map[string]string{}
	for name, v := range values {
		// $(...) is Kubernetes' own expansion: an unknown name stays as it is,
		// and $$ stands for one $.
		want[name] = strings.ReplaceAll(v, "$$", "$")
		env = append(env, map[string]any{"name": name, "value": v})
	}
	env = append(env, map[string]any{"name": "BINARY", "valueFrom": map[string]any{"secretKeyRef": map[string]any{"name": "raw", "key": "bytes"}}})
	want["BINARY"] = binary
	big := strings.Repeat("x", 100_000)
	for i := range 10 { // a megabyte in all; one string may have 128 KiB on Linux
		name := fmt.Sprintf("BIG_%d", i)
		env = append(env, map[string]any{"name": name, "value": big})
		want[name] = big
	}
	dump := `import os,sys,base64,json
keys=sys.argv[1].split(",")
print(json.dumps({"env":{k:base64.b64encode(os.environb[k.encode()]).decode() for k in keys},"argv":sys.argv[2:],"big":all(os.environ["BIG_%d"%i]=="x"*100000 for i in range(10))}))`
	var keys, args []string
	for name := range want {
		if !strings.HasPrefix(name, "BIG_") {
			keys = append(keys, name)
		}
	}
	for _, v := range values {
		args = append(args, v)
	}
	manifest := map[string]any{
		"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "metadata": map[string]any{
			"name": "hostile", "annotations": map[string]string{"evil": values["NEWLINES"] + values["SUBST"]},
		},
		"spec": map[string]any{"minAvailable": 1, "tasks": []any{map[string]any{"name": "t", "replicas": 1, "template": map[string]any{
			"metadata": map[string]any{"annotations": map[string]string{"evil": values["NEWLINES"] + values["QUOTES"]}},
			"spec": map[string]any{
				"restartPolicy": "Never",
				"containers": []any{map[string]any{
					"name": "main", "image": "; touch " + mark, "command": append([]string{"python3", "-c", dump, strings.Join(keys, ",")}, args...),
					"env": env, "resources": map[string]any{"requests": map[string]string{"cpu": "1"}},
				}},
			},
		}}}},
	}
	// Server-side, since the annotation of a client-side apply has no room for it.
	apply(t, ns, asJSON(t, manifest), "--server-side")
	phase(t, ns, "hostile", "Completed", 2*time.Minute)
	var got struct {
		Env  map[string]string
		Argv []string
		Big  bool
	}
	if err := json.Unmarshal([]byte(kubectl(t, "logs", "-n", ns, "hostile-t-0")), &got); err != nil {
		t.Fatalf("the pod's own report: %v", err)
	}
	for _, name := range keys {
		raw, err := base64.StdEncoding.DecodeString(got.Env[name])
		if err != nil || string(raw) != want[name] {
			t.Errorf("%s arrived as %q, want %q (%v)", name, raw, want[name], err)
		}
	}
	for i, arg := range args {
		if i >= len(got.Argv) || got.Argv[i] != strings.ReplaceAll(arg, "$$", "$") {
			t.Errorf("argument %d arrived as %q, want %q", i, got.Argv, arg)
		}
	}
	if !got.Big {
		t.Error("the large environment did not arrive whole")
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("some hostile text was executed")
	}
}

// What cannot be passed on is refused by its field's name.
func TestHostileNames(t *testing.T) {
	ns := namespace(t, account.Alice)
	for name, field := range map[string]string{"LD_PRELOAD": "env[0].name", "SLURM_CONF": "env[0].name", "BASH_ENV": "env[0].name"} {
		job := job{Name: "n" + strings.ToLower(strings.ReplaceAll(name, "_", "")), Replicas: 1, Script: "true",
			Extra: fmt.Sprintf("          env: [{name: %s, value: /tmp/x}]", name)}
		apply(t, ns, job.yaml())
		told(t, ns, field, name)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
