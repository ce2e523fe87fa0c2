package schedtest

import (
	"fmt"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/isthmus-hpc/isthmus/scheduler/snapshot"
)

// addPeer adds a term KEY:LABEL=VALUE, for spread with :SKEW behind, to a class.
func addPeer(c *snapshot.ClassSpec, kind, text string) error {
	parts := strings.Split(text, ":")
	if len(parts) < 2 {
		return fmt.Errorf("%s=%s: want KEY:LABEL=VALUE", kind, text)
	}
	label, value := option(parts[1])
	if c.Peers == nil {
		c.Peers = &snapshot.Peers{}
	}
	c.Namespace = "default"
	t := snapshot.PeerTerm{Key: parts[0], Namespaces: []string{"default"}, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{label: value}}}
	switch kind {
	case "near":
		c.Peers.Near = append(c.Peers.Near, t)
	case "apart":
		c.Peers.Apart = append(c.Peers.Apart, t)
	case "likes":
		c.Peers.Prefer = append(c.Peers.Prefer, snapshot.WeightedTerm{PeerTerm: t, Weight: 10})
	case "dislikes":
		c.Peers.Prefer = append(c.Peers.Prefer, snapshot.WeightedTerm{PeerTerm: t, Weight: -10})
	default:
		s := snapshot.SpreadTerm{PeerTerm: t, MaxSkew: 1, MinDomains: 1, Hard: kind == "spread"}
		if len(parts) > 2 {
			n, err := strconv.ParseInt(parts[2], 10, 32)
			if err != nil {
				return fmt.Errorf("%s=%s: %w", kind, text, err)
			}
			s.MaxSkew = n
		}
		c.Peers.Spread = append(c.Peers.Spread, s)
	}
	return nil
}
