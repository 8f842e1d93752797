// esxsim simulates an ESX host or a vCenter server for libvirt's esx driver: govmomi's simulator behind a TLS front.
package main

import (
	"flag"
	"fmt"
	"log"
	"net"
	"net/http/httptest"
	"net/url"
	"os"
	"os/signal"
	"syscall"

	"github.com/vmware/govmomi/simulator"
)

func main() {
	kind := flag.String("kind", "esx", "what to simulate: esx or vcenter")
	listen := flag.String("listen", "127.0.0.1:0", "address to listen on")
	flag.Parse()

	model := simulator.ESX()
	if *kind == "vcenter" {
		model = simulator.VPX()
	}
	model.Machine = 1
	if err := model.Create(); err != nil {
		log.Fatal(err)
	}
	defer model.Remove()
	complete()
	model.Service.RegisterEndpoints = true
	model.Service.Listen = &url.URL{Host: "127.0.0.1:0", User: url.UserPassword("user", "pass")}
	simulated := model.Service.NewServer()
	defer simulated.Close()

	listener, err := net.Listen("tcp", *listen)
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewUnstartedServer(front(simulated.URL.Host))
	server.Config.ErrorLog = log.New(os.Stderr, "", 0)
	server.Listener.Close()
	server.Listener = listener
	server.StartTLS()
	defer server.Close()
	fmt.Printf("READY %s\n", listener.Addr())

	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGINT, syscall.SIGTERM)
	<-ended
}
