package plutino

import (
	"encoding/json"
	"sort"
	"strings"
)

// sorted returns the rows in the order of the view: by its ORDER BY, then by key.
func (s *state) sorted() []Row {
	rows := make([]Row, 0, len(s.rows))
	for _, row := range s.rows {
		rows = append(rows, row)
	}
	sort.Slice(rows, func(a, b int) bool { return s.compare(rows[a], rows[b]) < 0 })
	return rows
}

func (s *state) compare(a, b Row) int {
	for _, by := range s.order {
		left, right := a[by[0]], b[by[0]]
		order := compare(left, right)
		// Nulls are last in both directions.
		if by[1] == "desc" && left != nil && right != nil {
			order = -order
		}
		if order != 0 {
			return order
		}
	}
	for _, column := range s.key {
		if order := compare(a[column], b[column]); order != 0 {
			return order
		}
	}
	return 0
}

// rank is the place of a kind of value in the order of views.
func rank(value any) int {
	switch value.(type) {
	case bool:
		return 0
	case json.Number:
		return 1
	case string:
		return 2
	case nil:
		return 4
	default:
		return 3
	}
}

// compare orders values as views do: booleans, numbers, text by code point, nulls last.
func compare(a, b any) int {
	if order := rank(a) - rank(b); order != 0 {
		return order
	}
	switch left := a.(type) {
	case bool:
		right := b.(bool)
		switch {
		case left == right:
			return 0
		case right:
			return -1
		default:
			return 1
		}
	case json.Number:
		one, _ := left.Float64()
		other, _ := b.(json.Number).Float64()
		switch {
		case one < other:
			return -1
		case one > other:
			return 1
		default:
			return 0
		}
	case string:
		// Bytes of UTF-8 have the order of code points.
		return strings.Compare(left, b.(string))
	case nil:
		return 0
	default:
		one, _ := json.Marshal(a)
		other, _ := json.Marshal(b)
		return strings.Compare(string(one), string(other))
	}
}
