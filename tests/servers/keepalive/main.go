// An HTTP server that closes idle connections after a time of our choosing, and says so or not.
//
// It prints its address, and answers GET /stats with what it has seen. It ends when its standard input does, so
// that it never outlives the test that started it.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
)

var pushes, connections int64

func main() {
	idle := flag.Duration("idle", time.Second, "close connections that are idle for so long")
	advertise := flag.String("advertise", "", "value of the Keep-Alive header; none if empty")
	certificate := flag.String("certificate", "", "speak TLS, and write the certificate to this file")
	flag.Parse()
	log.SetFlags(0)

	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	scheme := "http"
	if *certificate != "" {
		scheme = "https"
		listener = tls.NewListener(listener, &tls.Config{
			Certificates: []tls.Certificate{selfSigned(*certificate)},
			NextProtos:   []string{"http/1.1"},
		})
	}
	handler := http.NewServeMux()
	handler.HandleFunc("/push.v1.PusherService/Push", func(out http.ResponseWriter, in *http.Request) {
		if _, err := io.Copy(io.Discard, in.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
		atomic.AddInt64(&pushes, 1)
		if *advertise != "" {
			out.Header().Set("Keep-Alive", *advertise)
		}
	})
	handler.HandleFunc("/stats", func(out http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(out, "{\"pushes\":%d,\"connections\":%d}", atomic.LoadInt64(&pushes), atomic.LoadInt64(&connections))
	})
	server := http.Server{
		Handler:     handler,
		IdleTimeout: *idle,
		ErrorLog:    log.New(io.Discard, "", 0),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				atomic.AddInt64(&connections, 1)
			}
		},
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Printf("%s://%s\n", scheme, listener.Addr())
	log.Fatal(server.Serve(listener))
}

// selfSigned makes a certificate for 127.0.0.1 that is its own authority, and writes it to a file.
func selfSigned(file string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "keepalive test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := os.WriteFile(file, text, 0o600); err != nil {
		log.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
