// Package plutino follows live views of Plutino: first the rows as they stand, then each change.
//
//	err := plutino.Follow(ctx, "ws://localhost:10081/live", "fleet",
//		plutino.Options{Params: map[string]any{"site": []string{"n1", "n2"}}},
//		func(change plutino.Change) { fmt.Println(len(change.Rows)) })
//
// It needs nothing but the standard library. The protocol is plutino.live.v1, described in docs/live-views.md.
package plutino

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// The waits between two dials. Each is shortened at random by up to a half, so that many clients do not dial at once.
const (
	firstWait   = 250 * time.Millisecond
	longestWait = 10 * time.Second
)

// The interval of heartbeats until the server's hello names it.
const defaultHeartbeat = 15 * time.Second

// Row is a row of a view by column. Numbers are json.Number, which keeps them exact.
type Row = map[string]any

// Options of a subscription.
type Options struct {
	// Params fixes columns to a value, or to a list of values.
	Params map[string]any
	// Every asks for at most one delta in this time; 0: without delay.
	Every time.Duration
	// Token is called before each dial; nil: there is no token.
	Token func() (string, error)
}

// Change is what happened to the rows, all of it at once.
type Change struct {
	// Rows are the current rows by key, for reading until the callback returns.
	Rows map[string]Row
	// Insert and Update have whole rows, Delete has key columns.
	Insert, Update, Delete []Row
	// Snapshot: all rows were replaced.
	Snapshot bool
	// Ts is the view's time, ms since the epoch.
	Ts int64

	state *state
}

// Sorted returns the rows in the order of the view, or by key if it has none.
func (change Change) Sorted() []Row { return change.state.sorted() }

// Error is why the server refused a subscription, or ended it for good.
type Error struct{ Code, Message string }

func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code
	}
	return e.Code + ": " + e.Message
}

// Follow subscribes to a view and calls onChange after each cut, until the context ends or the server refuses the
// subscription. It connects again after a cut connection and resumes where it stopped; the rows stay meanwhile.
func Follow(ctx context.Context, address, view string, options Options, onChange func(Change)) error {
	state := &state{view: view, options: options, onChange: onChange}
	wait := firstWait
	for {
		greeted, err := state.connection(ctx, address)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		var refused *Error
		if errors.As(err, &refused) {
			return err
		}
		if greeted {
			wait = firstWait
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait/2 + time.Duration(rand.Int63n(int64(wait/2)))):
		}
		wait = min(2*wait, longestWait)
	}
}

// A frame of the server, with the members of all kinds.
type frame struct {
	T         string          `json:"t"`
	S         uint64          `json:"s"`
	Heartbeat int64           `json:"heartbeat"`
	Key       []string        `json:"key"`
	Order     [][2]string     `json:"order"`
	Resumed   bool            `json:"resumed"`
	Rows      []Row           `json:"rows"`
	Prev      string          `json:"prev"`
	At        json.RawMessage `json:"at"`
	Ts        int64           `json:"ts"`
	More      bool            `json:"more"`
	Insert    []Row           `json:"insert"`
	Update    []Row           `json:"update"`
	Delete    []Row           `json:"delete"`
	Why       string          `json:"why"`
	Code      string          `json:"code"`
	Message   string          `json:"message"`
	Retry     bool            `json:"retry"`
}

// cursor is the member "at" of ready and delta.
func (f *frame) cursor() string {
	var at string
	_ = json.Unmarshal(f.At, &at)
	return at
}

// One subscription.
type state struct {
	view     string
	options  Options
	onChange func(Change)

	number uint64
	key    []string
	order  [][2]string
	// The rows that are shown: those of one cut.
	rows   map[string]Row
	cursor string
	// The rows of a cut that is not complete, and what has changed in it; nil: there is none.
	next    map[string]Row
	pending Change
	// The next cut replaces all rows.
	replaces bool
}

var errMisfit = errors.New("a delta does not continue the cut that the client has")

// connection runs one connection to its end; true: the server has greeted.
func (s *state) connection(ctx context.Context, address string) (greeted bool, err error) {
	if s.options.Token != nil {
		token, err := s.options.Token()
		if err != nil {
			return false, err
		}
		sign := "?"
		if strings.Contains(address, "?") {
			sign = "&"
		}
		address += sign + "_token=" + url.QueryEscape(token)
	}
	socket, err := dial(ctx, address, "plutino.live.v1")
	if err != nil {
		return false, err
	}
	defer socket.Close()
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	// What was begun is lost with the connection; a cursor is always of a whole cut.
	s.next, s.pending = nil, Change{}
	heartbeat := defaultHeartbeat
	for {
		// A server that is silent for two heartbeats is gone, whatever TCP says.
		text, err := socket.Read(2*heartbeat + time.Second)
		if err != nil {
			return greeted, err
		}
		var message frame
		decoder := json.NewDecoder(bytes.NewReader(text))
		decoder.UseNumber()
		if err := decoder.Decode(&message); err != nil {
			return greeted, fmt.Errorf("a frame that is not understood: %w", err)
		}
		if message.T == "hello" {
			greeted, heartbeat = true, time.Duration(message.Heartbeat)*time.Millisecond
			err = s.subscribe(socket)
		} else {
			err = s.receive(&message)
		}
		switch {
		case errors.Is(err, errMisfit):
			// A whole snapshot is needed.
			s.next, s.pending, s.cursor = nil, Change{}, ""
			if err := send(socket, map[string]any{"t": "unsubscribe", "s": s.number}); err != nil {
				return greeted, err
			}
			if err := s.subscribe(socket); err != nil {
				return greeted, err
			}
		case err != nil:
			return greeted, err
		}
	}
}

func send(socket *socket, message map[string]any) error {
	text, err := json.Marshal(message)
	if err != nil {
		return &Error{Code: "bad_param", Message: err.Error()}
	}
	return socket.Write(text)
}

func (s *state) subscribe(socket *socket) error {
	message := map[string]any{"t": "subscribe", "id": "a", "view": s.view}
	if len(s.options.Params) > 0 {
		message["params"] = s.options.Params
	}
	if s.options.Every > 0 {
		message["every"] = s.options.Every.Milliseconds()
	}
	if s.cursor != "" {
		message["cursor"] = s.cursor
	}
	return send(socket, message)
}

// receive handles a frame after hello.
func (s *state) receive(message *frame) error {
	switch message.T {
	case "subscribed":
		s.number, s.key, s.order = message.S, message.Key, message.Order
		if !message.Resumed {
			s.cursor = ""
		}
	case "snapshot":
		s.next, s.pending, s.replaces = map[string]Row{}, Change{}, true
	case "rows":
		for _, row := range message.Rows {
			s.next[s.keyOf(row)] = row
		}
	case "ready":
		s.pending.Ts = message.Ts
		if !message.More {
			s.complete(message.cursor())
		}
	case "delta":
		if message.S == s.number {
			return s.delta(message)
		}
	case "progress":
		var at map[string]string
		_ = json.Unmarshal(message.At, &at)
		if cursor, ok := at[strconv.FormatUint(s.number, 10)]; ok && s.next == nil && s.cursor != "" {
			s.cursor = cursor
		}
	case "error":
		if !message.Retry {
			return &Error{message.Code, message.Message}
		}
		return errors.New(message.Message)
	case "unsubscribed":
		if message.S != s.number || message.Why == "asked" {
			return nil
		}
		if message.Why == "expired" {
			// The token: a new connection asks for a new one.
			return errors.New("the token has expired")
		}
		return &Error{Code: message.Why}
	}
	// "gap" needs nothing: a snapshot follows. Frames that this version does not know are ignored.
	return nil
}

// delta applies a delta.
func (s *state) delta(message *frame) error {
	begun := s.next != nil
	if !message.More && !begun && !follows(s.cursor, message.Prev, message.cursor()) {
		return errMisfit
	}
	target := s.rows
	if message.More || begun {
		if !begun {
			// The shown rows stay until the cut is complete.
			s.next, s.replaces = make(map[string]Row, len(s.rows)), false
			for key, row := range s.rows {
				s.next[key] = row
			}
		}
		target = s.next
	}
	for _, rows := range [][]Row{message.Insert, message.Update} {
		for _, row := range rows {
			target[s.keyOf(row)] = row
		}
	}
	for _, row := range message.Delete {
		delete(target, s.keyOf(row))
	}
	pending := &s.pending
	pending.Insert = append(pending.Insert, message.Insert...)
	pending.Update = append(pending.Update, message.Update...)
	pending.Delete = append(pending.Delete, message.Delete...)
	pending.Ts = message.Ts
	if !message.More {
		s.complete(message.cursor())
	}
	return nil
}

// complete shows the rows of a cut.
func (s *state) complete(cursor string) {
	change := s.pending
	if s.next != nil {
		s.rows = s.next
		if s.replaces {
			change = Change{Snapshot: true, Ts: change.Ts}
			for _, row := range s.rows {
				change.Insert = append(change.Insert, row)
			}
		}
	}
	s.cursor, s.next, s.pending, s.replaces = cursor, nil, Change{}, false
	change.Rows, change.state = s.rows, s
	s.onChange(change)
}

// keyOf is the key of a row as JSON, in which 1, true and "1" differ as in the view.
func (s *state) keyOf(row Row) string {
	values := make([]any, len(s.key))
	for place, column := range s.key {
		values[place] = row[column]
	}
	text, _ := json.Marshal(values)
	return string(text)
}

// follows: the delta from prev to at continues the cut at cursor.
func follows(cursor, prev, at string) bool {
	split := func(cursor string) (string, uint64, bool) {
		place := strings.LastIndexByte(cursor, '.')
		if place < 0 {
			return "", 0, false
		}
		number, err := strconv.ParseUint(cursor[place+1:], 10, 64)
		return cursor[:place], number, err == nil
	}
	epoch, own, ok1 := split(cursor)
	before, from, ok2 := split(prev)
	after, to, ok3 := split(at)
	return ok1 && ok2 && ok3 && epoch == before && epoch == after && from <= own && own < to
}
