package slurm_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/isthmus-hpc/isthmus/backends"
	"github.com/isthmus-hpc/isthmus/backends/transport"
)

// TestUnreadLicenses: a list of licences that cannot be had, or read, costs no node its
// hosts: those of the last list stay, if there was one, and why is told.
func TestUnreadLicenses(t *testing.T) {
	rec := recorded(t)
	var instead func() (transport.Result, error) // nil: as recorded
	b := backend(t, &replay{answer: func(c transport.Command) (transport.Result, error) {
		if c.Argv[len(c.Argv)-1] == "licenses" && instead != nil {
			return instead()
		}
		return rec.answer(c)
	}})
	names := func(inv backends.Inventory) (out []string) {
		for _, l := range inv.Licenses {
			out = append(out, l.Name)
		}
		return out
	}
	look := func(why string, want ...string) {
		t.Helper()
		inv, err := b.Inventory(t.Context())
		if err != nil || len(inv.Hosts) != 7 {
			t.Fatalf("%d hosts, %v", len(inv.Hosts), err)
		}
		if got := names(inv); !slices.Equal(got, want) {
			t.Errorf("licences %q, want %q", got, want)
		}
		if !strings.Contains(inv.LicensesUnread, why) || (why == "") != (inv.LicensesUnread == "") {
			t.Errorf("unread: %q, want %q", inv.LicensesUnread, why)
		}
	}
	refused := func() (transport.Result, error) {
		return transport.Result{Stderr: []byte("slurm_load_licenses error: Access/permission denied\n"), Exit: 1}, nil
	}
	instead = refused
	look("permission denied")
	instead = nil
	look("", "db@server", "fluent")
	instead = refused
	look("permission denied", "db@server", "fluent")
	instead = func() (transport.Result, error) {
		return transport.Result{Stdout: []byte("what a new release says\n")}, nil
	}
	look("want LicenseName=", "db@server", "fluent")
	instead = func() (transport.Result, error) { return transport.Result{}, errors.New("the line was cut") }
	look("the line was cut", "db@server", "fluent")
	instead = func() (transport.Result, error) {
		return transport.Result{Stdout: []byte("No licenses configured in Slurm.\n")}, nil
	}
	look("")
	instead = refused
	look("permission denied")
}
