package slurm

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
)

const (
	maxHosts = 60
	// firstPort and blocks keep below the range the kernel takes for outgoing
	// connections, which would collide at random.
	firstPort = 10000
	blockSize = 64
	blocks    = (32000 - firstPort) / blockSize
)

// place is where a cluster lives, usually on the loopback: a block of ports, and with
// it a /24 of addresses, so that two clusters that do not share ports share no
// addresses either.
type place struct {
	// Port is the controller's; the hosts' follow. The last of the block is the
	// accounting daemon's, the one before it slurmrestd's.
	Port int `json:"port"`
	// Networks: the hosts live in network namespaces, on a private network that
	// this machine's other processes see a bridge of.
	Networks bool `json:"networks,omitempty"`
}

func (p place) address(last int) string {
	block := (p.Port - firstPort) / blockSize
	if p.Networks {
		return fmt.Sprintf("10.%d.%d.%d", 213+block/250, 1+block%250, last)
	}
	return fmt.Sprintf("127.%d.%d.%d", 64+block/250, 1+block%250, last)
}

func (p place) controller() string { return p.address(1) }
func (p place) host(n int) string  { return p.address(11 + n) }
func (p place) accounting() int    { return p.Port + blockSize - 1 }
func (p place) rest() int          { return p.Port + blockSize - 2 }

// findPlace gives a block whose ports nobody uses now. Another cluster that
// starts at the same moment may still take it first; Start then tries again.
func findPlace(hosts int) (place, error) {
	for range 50 {
		p := place{Port: firstPort + rand.IntN(blocks)*blockSize}
		if p.free(hosts) {
			return p, nil
		}
	}
	return place{}, errors.New("no free block of ports on this machine")
}

// free says whether nobody uses the ports of the controller, that many hosts,
// the accounting daemon and slurmrestd.
func (p place) free(hosts int) bool {
	var open []net.Listener
	defer func() {
		for _, l := range open {
			_ = l.Close()
		}
	}()
	ports := []int{p.accounting(), p.rest()}
	for i := range hosts + 1 {
		ports = append(ports, p.Port+i)
	}
	for _, port := range ports {
		l, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", port))
		if err != nil {
			return false
		}
		open = append(open, l)
	}
	return true
}
