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

// place is where on the loopback a cluster lives: a block of ports, and with
// it a /24 of addresses, so that two clusters that do not share ports share no
// addresses either.
type place struct {
	Port int `json:"port"` // the controller's; the hosts' follow
}

func (p place) address(last int) string {
	block := (p.Port - firstPort) / blockSize
	return fmt.Sprintf("127.%d.%d.%d", 64+block/250, 1+block%250, last)
}

func (p place) controller() string { return p.address(1) }
func (p place) host(n int) string  { return p.address(11 + n) }

// findPlace gives a block whose ports nobody uses now. Another cluster that
// starts at the same moment may still take it first; Start then tries again.
func findPlace(hosts int) (place, error) {
	for range 50 {
		p := place{Port: firstPort + rand.IntN(blocks)*blockSize}
		if p.free(hosts + 1) {
			return p, nil
		}
	}
	return place{}, errors.New("no free block of ports on this machine")
}

func (p place) free(ports int) bool {
	var open []net.Listener
	defer func() {
		for _, l := range open {
			_ = l.Close()
		}
	}()
	for i := range ports {
		l, err := net.Listen("tcp4", fmt.Sprintf("0.0.0.0:%d", p.Port+i))
		if err != nil {
			return false
		}
		open = append(open, l)
	}
	return true
}
