// An HTTP server of Go's that closes idle connections after a time of our choosing, and says so or not.
//
// On standard output it prints its address, and then each body it was pushed as a line of base64, written before the
// answer. What is not pushed is turned away, as a Pyroscope does. It ends when its standard input does, so that it never
// outlives the test that started it.
package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"flag"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:0", "where to listen")
	read := flag.Duration("read", 0, "ReadTimeout and WriteTimeout; none if zero")
	idle := flag.Duration("idle", 0, "IdleTimeout; that of reading if zero")
	advertise := flag.String("advertise", "", "value of the Keep-Alive header; none if empty")
	refusedFrom := flag.Int64("refused-from", 0, "the first request that is answered by a 429")
	refusedTo := flag.Int64("refused-to", 0, "the first request after those that are answered by a 429")
	certificates := flag.String("certificates", "", "speak TLS with what is in this folder")
	http2 := flag.Bool("http2", false, "speak HTTP/2 too, if TLS is spoken")
	make := flag.String("make-certificates", "", "only make a certificate and a key in this folder")
	flag.Parse()
	log.SetFlags(0)
	if *make != "" {
		makeCertificates(*make)
		return
	}

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	var requests int64
	handler := http.HandlerFunc(func(out http.ResponseWriter, in *http.Request) {
		if in.Method != http.MethodPost {
			out.Header().Set("Allow", http.MethodPost)
			http.Error(out, "push with POST", http.StatusMethodNotAllowed)
			return
		}
		number := atomic.AddInt64(&requests, 1) - 1
		body, err := io.ReadAll(in.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		if *advertise != "" && in.ProtoMajor == 1 {
			out.Header().Set("Keep-Alive", *advertise)
		}
		if number >= *refusedFrom && number < *refusedTo {
			out.Header().Set("Retry-After", "1")
			http.Error(out, "slower, please", http.StatusTooManyRequests)
			return
		}
		// One write each: lines of a pipe do not mix.
		os.Stdout.WriteString(base64.StdEncoding.EncodeToString(body) + "\n")
	})
	server := http.Server{
		Handler:      handler,
		ReadTimeout:  *read,
		WriteTimeout: *read,
		IdleTimeout:  *idle,
		ErrorLog:     log.New(io.Discard, "", 0),
	}
	if !*http2 {
		server.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	go func() {
		io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	fmt.Println(listener.Addr())
	if *certificates != "" {
		file := func(name string) string { return filepath.Join(*certificates, name) }
		log.Fatal(server.ServeTLS(listener, file("certificate.pem"), file("key.pem")))
	}
	log.Fatal(server.Serve(listener))
}

// makeCertificates makes a certificate for 127.0.0.1, as a server or a client, that is its own authority. It writes the certificate, the key, and
// a file of both, which is what some servers want.
func makeCertificates(folder string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		log.Fatal(err)
	}
	template := x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "a test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(24 * time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage:              x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, &template, &key.PublicKey, key)
	if err != nil {
		log.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		log.Fatal(err)
	}
	certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	secret := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	for name, text := range map[string][]byte{
		"certificate.pem": certificate,
		"key.pem":         secret,
		"both.pem":        append(append([]byte{}, certificate...), secret...),
	} {
		if err := os.WriteFile(filepath.Join(folder, name), text, 0o600); err != nil {
			log.Fatal(err)
		}
	}
}
