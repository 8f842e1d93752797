package main

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/httputil"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

var (
	arrayValue   = regexp.MustCompile(`(?s)<(?:val|result) [^>]*:type="ArrayOf(\w+)"[^>]*>.*?</(?:val|result)>`)
	registerPath = regexp.MustCompile(`(?s)<RegisterVM_Task.*?<path[^>]*>(.*?)</path>`)
	rebootGuest  = regexp.MustCompile(`<RebootGuest[ >]`)
	removal      = regexp.MustCompile(`(?s)<RemoveSnapshot_Task.*?<_this[^>]*>(.*?)</_this>`)
	revertTo     = regexp.MustCompile(`(?s)<RevertToSnapshot_Task.*?<_this[^>]*>(.*?)</_this>`)
)

const emptyPNG = "\x89PNG\r\n\x1a\n"

const rebootAnswer = `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>
<RebootGuestResponse xmlns="urn:vim25"/></soapenv:Body></soapenv:Envelope>`

// front passes requests on to the simulator, and makes good where its answers are not those of a real host.
func front(backend string) http.Handler {
	proxy := httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: backend})
	proxy.ModifyResponse = repair
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/screen":
			w.Header().Set("Content-Type", "image/png")
			io.WriteString(w, emptyPNG)
			return
		case r.URL.Path == "/lab/tools": // what VMware Tools in a guest would tell: ?machine=NAME&mac=...&ip=...
			query := r.URL.Query()
			tellAddress(query.Get("machine"), query.Get("mac"), query.Get("ip"))
			return
		case r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, ".vmx"):
			folder := strings.TrimPrefix(r.URL.Path, "/folder/")
			writeSizes(fmt.Sprintf("[%s] %s", r.URL.Query().Get("dsName"), folder))
		case r.URL.Path == "/sdk":
			body, _ := io.ReadAll(r.Body)
			r.Body = io.NopCloser(bytes.NewReader(body))
			if rebootGuest.Match(body) { // the simulator lacks the call
				w.Header().Set("Content-Type", "text/xml")
				io.WriteString(w, rebootAnswer)
				return
			}
			if found := registerPath.FindSubmatch(body); found != nil {
				path := html.UnescapeString(string(found[1]))
				prepareRegistration(path)
				r.Header.Set(registering, url.QueryEscape(path))
			}
			if found := removal.FindSubmatch(body); found != nil {
				leave(string(found[1]))
			}
			if found := revertTo.FindSubmatch(body); found != nil {
				r.Header.Set(reverting, string(found[1]))
			}
		}
		proxy.ServeHTTP(w, r)
	})
}

const (
	registering = "X-Registering"
	reverting   = "X-Reverting"
)

func repair(answer *http.Response) error {
	if path, err := url.QueryUnescape(answer.Request.Header.Get(registering)); err == nil && path != "" {
		applyFile(path) // before the caller hears that the machine is registered
	}
	if id := answer.Request.Header.Get(reverting); id != "" {
		goBack(id)
	}
	if !strings.HasPrefix(answer.Request.URL.Path, "/sdk") {
		return nil
	}
	var reader io.Reader = answer.Body
	if answer.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(answer.Body)
		if err != nil {
			return err
		}
		reader = unpacked
		answer.Header.Del("Content-Encoding")
	}
	body, err := io.ReadAll(reader)
	if err != nil {
		return err
	}
	body = arrayValue.ReplaceAllFunc(body, typeItems)
	answer.Body = io.NopCloser(bytes.NewReader(body))
	answer.ContentLength = int64(len(body))
	answer.Header.Set("Content-Length", strconv.Itoa(len(body)))
	return nil
}

// typeItems gives each item of an array the xsi:type that a real host sends and libvirt insists on.
func typeItems(array []byte) []byte {
	name := string(arrayValue.FindSubmatch(array)[1])
	typed := name
	if name == "String" {
		typed = "xsd:string"
	}
	return regexp.MustCompile(`<`+name+`(?: [^>]*)?>`).ReplaceAllFunc(array, func(tag []byte) []byte {
		if bytes.Contains(tag, []byte(":type=")) {
			return tag
		}
		return []byte(strings.Replace(string(tag), "<"+name, `<`+name+` xsi:type="`+typed+`"`, 1))
	})
}
