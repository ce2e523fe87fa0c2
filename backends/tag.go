package backends

import (
	"fmt"
	"strings"
)

// tagPrefix begins every tag, so that nobody else's text is taken for one.
const tagPrefix = "isthmus/"

// Tag is what a batch system is given to carry with a job, for instance as its comment:
// by it the job is known again, whatever became of its submission.
func Tag(owner string, key Key) string { return tagPrefix + owner + "/" + string(key) }

// ParseTag reads a tag; ok is false for any other text.
func ParseTag(text string) (owner string, key Key, ok bool) {
	rest, ok := strings.CutPrefix(text, tagPrefix)
	if !ok {
		return "", "", false
	}
	owner, name, ok := strings.Cut(rest, "/")
	if !ok || wrongOwner(owner) != "" || !ValidKey(Key(name)) {
		return "", "", false
	}
	return owner, Key(name), true
}

// CheckOwner refuses what is no owner of jobs.
func CheckOwner(owner string) error {
	if why := wrongOwner(owner); why != "" {
		return fmt.Errorf("owner %.80q %s", owner, why)
	}
	return nil
}
