package backends

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Reservation is an advance reservation of whole hosts at the batch system. What
// runs on them when it begins is let be, and jobs of it may begin before, end after
// and run on other hosts as well: it keeps the jobs of others off its hosts, and
// nothing more.
type Reservation struct {
	// Name is what jobs name as JobSpec.Reservation; see ReservationName.
	Name string
	// Hosts that are kept, and operating-system users that they are kept for, both
	// sorted and at least one.
	Hosts, Users []string
	// Start and End are to the second. A start that has passed is now.
	Start, End time.Time
	// Active is whether it has begun, as the batch system tells it.
	Active bool
}

// Reserver is a Backend that makes reservations, where Capabilities.Reserve says so.
// What it may do there depends on the account: KindDenied is an account that may not.
type Reserver interface {
	// Reservations lists those with the owner's tag that are not over, by name.
	Reservations(ctx context.Context, owner string) ([]Reservation, error)
	// Reserve makes a reservation with the owner's tag, or makes the one of that name
	// what r says: its hosts, users and end, and its start while it has not begun. It
	// is safe to repeat, after an unknown outcome as well. KindTransient is also said
	// of hosts that another reservation has at that time.
	Reserve(ctx context.Context, owner string, r Reservation) error
	// Join takes jobs that wait into a reservation with the owner's tag, as if they had
	// been submitted into it. Those that do not wait any more are left as they are, and
	// those that are in it already too.
	Join(ctx context.Context, owner, name string, jobs []JobRef) error
	// Unreserve ends a reservation with the owner's tag. Jobs of it that wait do so
	// without it from then on, and those that run go on. One that is unknown is success.
	Unreserve(ctx context.Context, owner, name string) error
}

// reservationMark stands between the owner's tag and what is the reservation's own:
// no tag has it, so that no owner's names begin as another's do.
const reservationMark = "_"

// ReservationName is the name of the reservation that an owner makes for an object:
// the same for the same UID, and no other's.
func ReservationName(owner, uid string) string {
	sum := sha256.Sum256([]byte(uid))
	return owner + reservationMark + hex.EncodeToString(sum[:6])
}

// OwnsReservation reports whether a name is one that ReservationName makes for the owner.
func OwnsReservation(owner, name string) bool {
	rest, ok := strings.CutPrefix(name, owner+reservationMark)
	sum, err := hex.DecodeString(rest)
	return ok && err == nil && len(sum) == 6 && owner != ""
}

// MaxReservedHosts of one reservation.
const MaxReservedHosts = MaxExcludedHosts

// Validate checks everything about r that does not need the batch system, and names
// each wrong field.
func (r Reservation) Validate(owner string) error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if why := wrongOwner(owner); why != "" {
		bad("owner", "%q %s", owner, why)
	}
	if !OwnsReservation(owner, r.Name) {
		bad("name", "%.80q is not a name of owner %.80q", r.Name, owner)
	}
	if n := len(r.Hosts); n < 1 || n > MaxReservedHosts {
		bad("hosts", "there are %d, not 1 to %d", n, MaxReservedHosts)
	}
	for i, h := range r.Hosts {
		if !validHost(h) {
			bad(fmt.Sprintf("hosts[%d]", i), "%.80q is not 1 to %d letters, digits, '.', '_' and '-' that start with a letter or digit", h, maxHostBytes)
			break
		}
	}
	if len(r.Users) == 0 {
		bad("users", "there are none, and it would be nobody's")
	}
	for i, u := range r.Users {
		if why := wrongUser(u); why != "" {
			bad(fmt.Sprintf("users[%d]", i), "%q %s", u, why)
		}
	}
	if !r.End.After(r.Start) {
		bad("end", "%s is not after the start, %s", r.End.UTC().Format(time.RFC3339), r.Start.UTC().Format(time.RFC3339))
	}
	return errors.Join(errs...)
}

// Unlike names how a reservation, as the batch system lists it, differs from what r
// says at a time: "hosts", "users", "start" and "end"; nil when it does not. The start
// of one that has begun is what it is, and so is that of one that is about to.
func (r Reservation) Unlike(listed Reservation, now time.Time) []string {
	var out []string
	if !sameSet(r.Hosts, listed.Hosts) {
		out = append(out, "hosts")
	}
	if !sameSet(r.Users, listed.Users) {
		out = append(out, "users")
	}
	begun := listed.Active || !listed.Start.After(now)
	if !begun && r.Start.Unix() != listed.Start.Unix() && (r.Start.After(now) || listed.Start.Sub(now) > startSlack) {
		out = append(out, "start")
	}
	if r.End.Unix() != listed.End.Unix() {
		out = append(out, "end")
	}
	return out
}

// startSlack is how late "now" may be by the batch system's clock.
const startSlack = 5 * time.Minute

func sameSet(a, b []string) bool {
	sorted := func(s []string) []string { return slices.Compact(slices.Sorted(slices.Values(s))) }
	return slices.Equal(sorted(a), sorted(b))
}
