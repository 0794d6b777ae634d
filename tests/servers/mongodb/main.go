// A server of MongoDB's protocol for the tests: FerretDB on SQLite, in this process.
//
// FerretDB 1 reads a document and writes it back in two steps, so that of thirty clients that change the same document at once several
// are told they won. MongoDB never does that. The tests therefore talk to a front that lets one command through at a time and also
// puts right two replies that differ from MongoDB's: see serve.
package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/FerretDB/FerretDB/ferretdb"
	"github.com/FerretDB/wire"
	"github.com/FerretDB/wire/wirebson"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("mongodb-server: ")
	listen := flag.String("listen", "127.0.0.1:0", "address and port; port 0 takes a free one")
	data := flag.String("data", "", "directory of the data; made when it is missing")
	flag.Parse()
	if *data == "" || flag.NArg() > 0 {
		log.Fatal("usage: mongodb-server [--listen ADDRESS:PORT] --data DIR")
	}
	dir := must(filepath.Abs(*data))
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.Chdir(dir)); err != nil {
		log.Fatal(err)
	}
	_ = os.Remove(socket)

	// No commit waits for the disk: the data outlives a killed process, not a power cut.
	sqlite := url.URL{Scheme: "file", Path: dir + "/", RawQuery: "_pragma=synchronous(off)"}
	db := must(ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{Unix: socket},
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Handler:   "sqlite",
		SQLiteURL: sqlite.String(),
	}))
	go func() { log.Fatal("FerretDB ended: ", db.Run(context.Background())) }()

	front := must(net.Listen("tcp", *listen))
	go func() {
		for {
			client, err := front.Accept()
			if err != nil {
				log.Fatal(err)
			}
			go serve(client)
		}
	}()
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	fmt.Printf("mongodb://%s/\n", front.Addr())
	<-stop
	// The command under way ends; what SQLite keeps in its log it reads at the next start. FerretDB itself would wait for its clients.
	turn.Lock()
	_ = os.Remove(socket)
}

// Where FerretDB listens: a name in the data directory, which is the working directory, as a socket's path may have 107 bytes only.
const socket = "socket"

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}

// One command at a time, of all connections.
var turn sync.Mutex

// serve carries requests and replies, one by one, between a client and FerretDB.
func serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", socket)
	if err != nil {
		return
	}
	defer server.Close()
	for {
		request, err := readMessage(client)
		if err != nil {
			return
		}
		turn.Lock()
		var reply []byte
		if _, err = server.Write(request); err == nil {
			reply, err = readMessage(server)
		}
		turn.Unlock()
		if err != nil {
			return
		}
		// FerretDB replies to a write of write concern 0; its client does not wait for that and would take it for the next reply.
		if unanswered(request) {
			continue
		}
		// FerretDB calls it an internal error when an update, or a new unique index, meets a duplicate.
		if bytes.Contains(reply, []byte("UNIQUE constraint failed")) {
			reply = duplicateKey(request, reply)
		}
		if _, err = client.Write(reply); err != nil {
			return
		}
	}
}

func readMessage(from io.Reader) ([]byte, error) {
	header := make([]byte, wire.MsgHeaderLen)
	if _, err := io.ReadFull(from, header); err != nil {
		return nil, err
	}
	length := binary.LittleEndian.Uint32(header)
	if length < wire.MsgHeaderLen || length > wire.MaxMsgLen {
		return nil, fmt.Errorf("a message of %d bytes", length)
	}
	message := make([]byte, length)
	copy(message, header)
	_, err := io.ReadFull(from, message[wire.MsgHeaderLen:])
	return message, err
}

// unanswered tells whether a request carries the flag moreToCome.
func unanswered(request []byte) bool {
	isMsg := len(request) >= 20 && binary.LittleEndian.Uint32(request[12:]) == uint32(wire.OpCodeMsg)
	return isMsg && binary.LittleEndian.Uint32(request[16:])&uint32(wire.OpMsgMoreToCome) != 0
}

// duplicateKey makes the reply that MongoDB would have given, where that can be told; else it gives the reply back.
func duplicateKey(request, reply []byte) []byte {
	var asked, failed wire.OpMsg
	if asked.UnmarshalBinaryNocopy(request[wire.MsgHeaderLen:]) != nil || failed.UnmarshalBinaryNocopy(reply[wire.MsgHeaderLen:]) != nil {
		return reply
	}
	// Only the error FerretDB itself calls internal (1), not a document that happens to hold the words.
	answer, err := failed.RawSection0().Decode()
	if err != nil || answer.Get("code") != int32(1) {
		return reply
	}
	question, err := asked.RawSection0().Decode()
	if err != nil {
		return reply
	}
	command := question.Command()
	const code = int32(11000)
	text := fmt.Sprintf("E11000 duplicate key error collection: %v.%v", question.Get("$db"), question.Get(command))
	var document *wirebson.Document
	if command == "update" {
		// Which of several statements failed cannot be told: the first is named.
		failure := wirebson.MustDocument("index", int32(0), "code", code, "errmsg", text)
		document = wirebson.MustDocument("n", int32(0), "nModified", int32(0), "writeErrors", wirebson.MustArray(failure), "ok", 1.0)
	} else {
		document = wirebson.MustDocument("ok", 0.0, "errmsg", text, "code", code, "codeName", "DuplicateKey")
	}
	body, err := must(wire.NewOpMsg(document)).MarshalBinary()
	if err != nil {
		return reply
	}
	message := append(bytes.Clone(reply[:wire.MsgHeaderLen]), body...)
	binary.LittleEndian.PutUint32(message, uint32(len(message)))
	return message
}
