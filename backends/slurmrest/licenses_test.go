package slurmrest_test

import (
	"net/http"
	"testing"
)

// TestUnreadLicenses: a list of licences that cannot be had, or read, costs no node its
// hosts: those of the last list stay, if there was one, and why is told.
func TestUnreadLicenses(t *testing.T) {
	for _, version := range versions() {
		const two = `{"licenses": [{"LicenseName": "fluent", "Total": 8, "Used": 3, "Reserved": 0}, {"LicenseName": "db@server", "Total": 4, "Used": 0, "Reserved": 0}], "errors": []}`
		// What is asked first of a server is for this list, whatever it holds.
		status, reply := http.StatusOK, `{"errors": []}`
		answer := recorded(t, version)
		server := serve(t, func(a asked) (int, string) {
			if a.path == "/slurm/"+version+"/licenses" {
				return status, reply
			}
			return answer(a)
		})
		b := newBackend(t, server.URL)
		look := func(unread bool, licenses int) {
			t.Helper()
			inv, err := b.Inventory(t.Context())
			if err != nil || len(inv.Hosts) != 4 {
				t.Fatalf("%s: %d hosts, %v", version, len(inv.Hosts), err)
			}
			if len(inv.Licenses) != licenses || (inv.LicensesUnread != "") != unread {
				t.Errorf("%s: licences %v, unread %q; want %d", version, inv.Licenses, inv.LicensesUnread, licenses)
			}
		}
		look(true, 0)
		say := func(code int, text string) {
			server.mu.Lock()
			defer server.mu.Unlock()
			status, reply = code, text
		}
		say(http.StatusOK, two)
		look(false, 2)
		for _, broken := range []string{"", `{"errors": []}`, `{"licenses": [{"LicenseName": {}}]}`, two[:60]} {
			say(http.StatusOK, broken)
			look(true, 2)
		}
		say(http.StatusInternalServerError, `{"errors": [{"error_number": 1, "error": "Unspecified error"}]}`)
		look(true, 2)
		say(http.StatusOK, `{"licenses": [], "errors": []}`)
		look(false, 0)
	}
}
