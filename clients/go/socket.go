package plutino

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"
)

// The largest message that is taken, bytes.
const largest = 256 << 20

// How long a dial with its handshake may take.
const dialing = 10 * time.Second

const (
	opContinuation = 0x0
	opText         = 0x1
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

// A socket is a websocket (RFC 6455) in the client's role, without extensions. One goroutine reads.
type socket struct {
	conn    net.Conn
	reader  *bufio.Reader
	writing sync.Mutex
}

func dial(ctx context.Context, address, subprotocol string) (*socket, error) {
	target, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	secure := target.Scheme == "wss"
	host := target.Host
	if target.Port() == "" {
		host = net.JoinHostPort(target.Hostname(), map[bool]string{true: "443", false: "80"}[secure])
	}
	ctx, cancel := context.WithTimeout(ctx, dialing)
	defer cancel()
	var conn net.Conn
	if secure {
		conn, err = (&tls.Dialer{}).DialContext(ctx, "tcp", host)
	} else {
		conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", host)
	}
	if err != nil {
		return nil, err
	}
	s := &socket{conn: conn, reader: bufio.NewReaderSize(conn, 64<<10)}
	if err := s.handshake(target, subprotocol); err != nil {
		conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *socket) handshake(target *url.URL, subprotocol string) error {
	var nonce [16]byte
	if _, err := rand.Read(nonce[:]); err != nil {
		return err
	}
	key := base64.StdEncoding.EncodeToString(nonce[:])
	request := &http.Request{Method: http.MethodGet, URL: target, Host: target.Host, Header: http.Header{
		"Upgrade": {"websocket"}, "Connection": {"Upgrade"}, "Sec-Websocket-Key": {key},
		"Sec-Websocket-Version": {"13"}, "Sec-Websocket-Protocol": {subprotocol},
	}}
	if err := s.conn.SetDeadline(time.Now().Add(dialing)); err != nil {
		return err
	}
	if err := request.Write(s.conn); err != nil {
		return err
	}
	response, err := http.ReadResponse(s.reader, request)
	if err != nil {
		return err
	}
	if response.StatusCode == http.StatusUnauthorized {
		return &Error{Code: "unauthorized", Message: "the server takes no such token"}
	}
	digest := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	accepted := base64.StdEncoding.EncodeToString(digest[:])
	if response.StatusCode != http.StatusSwitchingProtocols || response.Header.Get("Sec-Websocket-Accept") != accepted {
		return fmt.Errorf("no websocket: %s", response.Status)
	}
	return s.conn.SetDeadline(time.Time{})
}

func (s *socket) Close() { s.conn.Close() }

// Write sends a text message.
func (s *socket) Write(text []byte) error { return s.write(opText, text) }

func (s *socket) write(op byte, payload []byte) error {
	head := []byte{0x80 | op}
	switch length := len(payload); {
	case length < 126:
		head = append(head, 0x80|byte(length))
	case length < 1<<16:
		head = binary.BigEndian.AppendUint16(append(head, 0x80|126), uint16(length))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 0x80|127), uint64(length))
	}
	var mask [4]byte
	if _, err := rand.Read(mask[:]); err != nil {
		return err
	}
	bytes := append(head, mask[:]...)
	for place, value := range payload {
		bytes = append(bytes, value^mask[place%4])
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.conn.SetWriteDeadline(time.Now().Add(dialing)); err != nil {
		return err
	}
	_, err := s.conn.Write(bytes)
	return err
}

// Read returns the next text message. It fails if no byte comes for so long.
func (s *socket) Read(patience time.Duration) ([]byte, error) {
	var message []byte
	for {
		if err := s.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			return nil, err
		}
		op, final, payload, err := s.frame()
		if err != nil {
			return nil, err
		}
		switch op {
		case opText, opContinuation:
			if len(message)+len(payload) > largest {
				return nil, errors.New("a message is too large")
			}
			message = append(message, payload...)
			if final {
				return message, nil
			}
		case opPing:
			if err := s.write(opPong, payload); err != nil {
				return nil, err
			}
		case opPong:
		case opClose:
			_ = s.write(opClose, payload)
			return nil, io.EOF
		default:
			return nil, fmt.Errorf("an unexpected frame with opcode %d", op)
		}
	}
}

func (s *socket) frame() (op byte, final bool, payload []byte, err error) {
	var head [2]byte
	if _, err = io.ReadFull(s.reader, head[:]); err != nil {
		return
	}
	op, final = head[0]&0x0F, head[0]&0x80 != 0
	length := uint64(head[1] & 0x7F)
	switch length {
	case 126:
		var long [2]byte
		_, err = io.ReadFull(s.reader, long[:])
		length = uint64(binary.BigEndian.Uint16(long[:]))
	case 127:
		var long [8]byte
		_, err = io.ReadFull(s.reader, long[:])
		length = binary.BigEndian.Uint64(long[:])
	}
	if err != nil {
		return
	}
	if head[1]&0x80 != 0 || length > largest {
		err = errors.New("a frame that a server may not send, or one that is too large")
		return
	}
	payload = make([]byte, length)
	_, err = io.ReadFull(s.reader, payload)
	return
}
