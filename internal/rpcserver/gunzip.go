package rpcserver

import (
	"compress/gzip"
	"errors"
	"io"

	"connectrpc.com/connect"
)

// gunzip inflates as much as a message may have and one byte more, which shows that there is more. Connect would inflate a megabyte
// to the gigabyte that it may hold, to tell its length.
type gunzip struct {
	gzip.Reader
	left int // bytes that may still come out
}

var errInflated = errors.New("it is not inflated any further")

func (g *gunzip) Read(p []byte) (int, error) {
	if g.left == 0 {
		return 0, errInflated
	}
	n, err := g.Reader.Read(p[:min(len(p), g.left)])
	g.left -= n
	return n, err
}

// Reset begins another message.
func (g *gunzip) Reset(from io.Reader) error {
	g.left = maxMessage + 1
	return g.Reader.Reset(from)
}

func withBoundedGzip() connect.HandlerOption {
	return connect.WithCompression("gzip",
		func() connect.Decompressor { return new(gunzip) },
		func() connect.Compressor { return gzip.NewWriter(io.Discard) })
}
