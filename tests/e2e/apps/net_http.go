// The matrix's API under Go's net/http. Its argument is where to listen: a port of 127.0.0.1, or the path of a Unix
// socket.
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Reads like HTTP, so that whoever looks for messages inside bodies finds some.
const filler = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\nGET /items/1 HTTP/1.1\r\nhost: a\r\n\r\n0\r\n\r\n"

var chunks = []int{1, 7, 1000, 16384, 40000}

func body(length int) string {
	return strings.Repeat(filler, length/len(filler)+1)[:length]
}

func stream(w http.ResponseWriter, length int) {
	for turn := 0; length > 0; turn++ {
		size := chunks[turn%len(chunks)]
		if size > length {
			size = length
		}
		io.WriteString(w, body(size))
		w.(http.Flusher).Flush()
		length -= size
	}
}

func send(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	io.WriteString(w, body)
}

func handle(w http.ResponseWriter, r *http.Request) {
	kind, rest, _ := strings.Cut(strings.Trim(r.URL.Path, "/"), "/")
	number, _ := strconv.Atoi(rest)
	switch r.Method + " " + kind {
	case "GET blob", "HEAD blob":
		send(w, 200, body(number))
	case "GET chunked":
		stream(w, number)
	case "GET status":
		if number == 204 || number == 304 {
			w.WriteHeader(number)
		} else {
			send(w, number, "as you wish\n")
		}
	case "GET slow":
		time.Sleep(time.Duration(number) * time.Millisecond)
		send(w, 200, "slept\n")
	case "DELETE items":
		w.WriteHeader(204)
	case "POST upload":
		received, _ := io.Copy(io.Discard, r.Body)
		send(w, 200, fmt.Sprintf(`{"received":%d}`, received))
	default:
		send(w, 404, "nothing here\n")
	}
}

func main() {
	network, address := "unix", os.Args[1]
	if _, err := strconv.Atoi(address); err == nil {
		network, address = "tcp", "127.0.0.1:"+address
	}
	listener, err := net.Listen(network, address)
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal(http.Serve(listener, http.HandlerFunc(handle)))
}
