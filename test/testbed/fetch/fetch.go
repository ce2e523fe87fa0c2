// Package fetch reads pages, such as the measurements of a program.
package fetch

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"time"
)

// timeout is the longest that a page may take: a program that hangs is no reason for a
// test to do so.
const timeout = 20 * time.Second

// Text is what a server answers to a GET. It is an error if the status is not 200.
func Text(ctx context.Context, url string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", fmt.Errorf("fetch: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("fetch: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		return "", fmt.Errorf("fetch %s: %w", url, err)
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("fetch %s: %s: %s", url, res.Status, text)
	}
	return string(text), nil
}
