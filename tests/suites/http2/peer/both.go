package main

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"io"
	"net/http"
)

// Numbered pieces, so that no two are the same.
type numberedPieces struct {
	left int
	sum  hash.Hash
	at   byte
}

func (p *numberedPieces) Read(buffer []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := min(p.left, len(buffer))
	for i := range buffer[:n] {
		buffer[i] = p.at + byte(i>>6)
	}
	p.at++
	p.left -= n
	p.sum.Write(buffer[:n])
	return n, nil
}

// As much up as down at once, on one stream; true where the same came back.
func duplex(to, method string, size int) {
	pieces := &numberedPieces{left: size, sum: sha256.New()}
	// Of a length that nobody knows.
	request, err := http.NewRequest(method, "http://"+to+"/echo", struct{ io.Reader }{pieces})
	check(err)
	response, err := client(to).Do(request)
	check(err)
	back := sha256.New()
	got, err := io.Copy(back, response.Body)
	check(err)
	tell(int(got) == size && bytes.Equal(pieces.sum.Sum(nil), back.Sum(nil)))
}
