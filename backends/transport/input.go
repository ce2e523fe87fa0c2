package transport

import "io"

// Whole is an input that is all there and says how much of it is left, such as a
// strings.Reader: nobody who reads it waits.
type Whole interface {
	io.Reader
	Len() int
}

// Rewind gives what winds an input back to where it stands now. It is nil for one that
// is not Whole or no io.Seeker: that cannot be given to a program a second time.
func Rewind(in io.Reader) func() error {
	seeker, ok := in.(io.Seeker)
	if _, whole := in.(Whole); !ok || !whole {
		return nil
	}
	at, err := seeker.Seek(0, io.SeekCurrent)
	if err != nil {
		return nil
	}
	return func() error {
		_, err := seeker.Seek(at, io.SeekStart)
		return err
	}
}
