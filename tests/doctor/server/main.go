// A server of Go's with read and write timeouts and nothing else, as many are written: idle connections are closed when
// the time for reading is up.
//
// It knows the push path, prints its address and ends when its standard input does.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"
)

func main() {
	timeout := flag.Duration("timeout", 0, "for reading and for writing; none if zero")
	certificate := flag.String("certificate", "", "speak TLS, and leave the certificate in this file")
	flag.Parse()

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	check(err)
	address := listener.Addr()
	if *certificate != "" {
		listener = tls.NewListener(listener, &tls.Config{Certificates: []tls.Certificate{made(*certificate)}})
	}
	// Whoever reads this may connect, and reads the certificate.
	fmt.Println(address)
	http.HandleFunc("/push.v1.PusherService/Push", func(out http.ResponseWriter, in *http.Request) {
		if in.Method != http.MethodPost {
			out.Header().Set("Allow", http.MethodPost)
			http.Error(out, "push with POST", http.StatusMethodNotAllowed)
		}
	})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	server := http.Server{ReadTimeout: *timeout, WriteTimeout: *timeout, ErrorLog: log.New(io.Discard, "", 0)}
	check(server.Serve(listener))
}

// made makes a certificate for 127.0.0.1 that vouches for itself.
func made(file string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	about := x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	signed, err := x509.CreateCertificate(rand.Reader, &about, &about, key.Public(), key)
	check(err)
	check(os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: signed}), 0o644))
	return tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: key}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
