package provider

// Live lets tests ask what the loop asks.
func Live(b *Bridge) bool { return b.live() }
