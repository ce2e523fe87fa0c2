package servingcert

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"maps"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var begin = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// trusted says why the API server would not trust what is served.
func trusted(data map[string][]byte, bundle []byte, host string, now time.Time) error {
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return fmt.Errorf("the bundle holds no certificate")
	}
	block, _ := pem.Decode(data[certKey])
	if block == nil {
		return fmt.Errorf("there is no certificate")
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return err
	}
	_, err = c.Verify(x509.VerifyOptions{Roots: pool, DNSName: host, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return err
}

func TestBegin(t *testing.T) {
	in := Input{Hosts: []string{"isthmus-admission.ns.svc", "127.0.0.1"}, Told: [][]byte{nil}, Now: begin, Lives: DefaultLives}
	data, err := decide(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range in.Hosts {
		if err := trusted(data, data[bundleKey], host, begin); err != nil {
			t.Errorf("%s: %v", host, err)
		}
	}
	if err := trusted(data, data[bundleKey], "other.ns.svc", begin); err == nil {
		t.Error("it is good for another host")
	}
	in.Data, in.Told = data, [][]byte{data[bundleKey]}
	if again, err := decide(in); err != nil || again != nil {
		t.Errorf("a second look changes something: %v, %v", len(again), err)
	}
}

// What is broken is made anew.
func TestBroken(t *testing.T) {
	whole := Input{Hosts: []string{"a.b.svc"}, Told: [][]byte{nil}, Now: begin, Lives: DefaultLives}
	data, err := decide(whole)
	if err != nil {
		t.Fatal(err)
	}
	other, err := decide(whole)
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(in *Input){
		"no bundle":               func(in *Input) { delete(in.Data, bundleKey) },
		"no key of the authority": func(in *Input) { delete(in.Data, authorityKey) },
		"another's key":           func(in *Input) { in.Data[authorityKey] = other[authorityKey] },
		"a bundle of no PEM":      func(in *Input) { in.Data[bundleKey] = []byte("x") },
		"no certificate":          func(in *Input) { delete(in.Data, certKey) },
		"another's certificate":   func(in *Input) { in.Data[certKey], in.Data[privateKey] = other[certKey], other[privateKey] },
		"a key that is no pair":   func(in *Input) { in.Data[privateKey] = other[privateKey] },
		"another host":            func(in *Input) { in.Hosts = []string{"c.d.svc"} },
		"expired":                 func(in *Input) { in.Now = begin.Add(DefaultLives.Serving + time.Hour) },
		"all expired":             func(in *Input) { in.Now = begin.Add(DefaultLives.Authority + time.Hour) },
	} {
		in := whole
		in.Data = maps.Clone(data)
		in.Told = [][]byte{data[bundleKey]}
		edit(&in)
		next, err := decide(in)
		if err != nil || next == nil {
			t.Errorf("%s: %v, %v", name, len(next), err)
			continue
		}
		if err := trusted(next, next[bundleKey], in.Hosts[0], in.Now); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Over years, with replicas that look when they like, whose writes are lost to each
// other's and who may die between any two steps, the API server trusts what each
// replica serves at all times, as long as one looks now and then.
func TestNeverDistrusted(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		lives := Lives{Authority: 40 * time.Hour, Serving: 30 * time.Hour}
		hosts := []string{"isthmus-admission.ns.svc"}
		secret, err := decide(Input{Hosts: hosts, Told: [][]byte{nil, nil}, Now: begin, Lives: lives})
		if err != nil {
			t.Fatal(err)
		}
		told := [][]byte{secret[bundleKey], secret[bundleKey]}
		serves := []map[string][]byte{secret, secret}
		authorities := map[string]bool{}
		now := begin
		for step := range rapid.IntRange(10, 25).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 120).Draw(t, "minutes")) * time.Minute)
			// Both look at the same; the first that writes wins, the other looks again later.
			order := []int{0, 1}
			if rapid.Bool().Draw(t, "other first") {
				order = []int{1, 0}
			}
			for _, r := range order {
				next, err := decide(Input{Data: secret, Hosts: hosts, Told: [][]byte{bytes.Clone(told[0]), bytes.Clone(told[1])}, Now: now, Lives: lives})
				if err != nil {
					t.Fatal(err)
				}
				if next != nil {
					secret = next
				}
				// It may die before it serves that, and before either configuration is told.
				if rapid.IntRange(0, 9).Draw(t, "dies") == 0 {
					continue
				}
				serves[r] = secret
				for i := range told {
					if rapid.IntRange(0, 9).Draw(t, "told") > 0 {
						told[i] = secret[bundleKey]
					}
				}
			}
			// A replica looks at least every few steps.
			if step%4 == 3 {
				serves[0], serves[1] = secret, secret
				told[0], told[1] = secret[bundleKey], secret[bundleKey]
			}
			authorities[string(secret[authorityKey])] = true
			for r := range serves {
				for i := range told {
					if err := trusted(serves[r], told[i], hosts[0], now); err != nil {
						t.Fatalf("at %s replica %d is not trusted by configuration %d: %v", now.Sub(begin), r, i, err)
					}
				}
			}
		}
		if now.Sub(begin) > 2*lives.Authority && len(authorities) < 2 {
			t.Fatalf("after %s there was one authority only", now.Sub(begin))
		}
	})
}
