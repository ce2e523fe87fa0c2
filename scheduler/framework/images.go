package framework

import "slices"

// ImageWatcher is a plugin that may have to know which images nodes have.
type ImageWatcher interface{ WantsImages() bool }

// WantsImages reports whether any plugin, of a profile or not, has to know which images
// nodes have.
func (p Pipeline) WantsImages() bool {
	if wantImages(p.Plugins) {
		return true
	}
	for _, profile := range p.Profiles {
		if wantImages(profile.Plugins) {
			return true
		}
	}
	return false
}

func wantImages(plugins []Plugin) bool {
	return slices.ContainsFunc(plugins, func(pl Plugin) bool {
		if m, ok := pl.(Muted); ok {
			if m.DomainOrder {
				return false
			}
			pl = m.Plugin
		}
		x, ok := pl.(ImageWatcher)
		return ok && x.WantsImages()
	})
}
