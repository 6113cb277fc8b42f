// Serves the files in DIR/www (of the host admin.test those in DIR/admin) on PORT, and
// writes what it is asked to DIR/asked.log.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
)

func main() {
	port, dir := os.Args[1], os.Args[2]
	asked, err := os.OpenFile(filepath.Join(dir, "asked.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		log.Fatal(err)
	}
	www := http.FileServer(http.Dir(filepath.Join(dir, "www")))
	admin := http.FileServer(http.Dir(filepath.Join(dir, "admin")))
	serve := func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(asked, "%s %s\n", r.Method, r.RequestURI)
		io.Copy(io.Discard, r.Body)
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		if host == "admin.test" {
			admin.ServeHTTP(w, r)
			return
		}
		www.ServeHTTP(w, r)
	}
	log.Fatal(http.ListenAndServe(":"+port, http.HandlerFunc(serve)))
}
