package rules

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// This file reads the rule grammar of Traefik v2 and v3:
//
//	or      = and { "||" and }
//	and     = not { "&&" not }
//	not     = "!" not | "(" or ")" | call
//	call    = name "(" [ value { "," value } ] ")"
//	value   = `…` | "…" with Go's escapes
//
// Rewriting cuts and pastes by position, so what isn't rewritten stays byte for
// byte as it was.

type ruleOp int

const (
	opOr ruleOp = iota
	opAnd
	opNot
	opGroup // parentheses
	opCall
)

// ruleNode is a part of a rule, from start to before end.
type ruleNode struct {
	op         ruleOp
	start, end int
	kids       []*ruleNode
	name       string    // of a call
	args       []ruleArg // of a call
}

type ruleArg struct {
	start, end int
	value      string
	quote      byte
}

// maxRuleDepth bounds recursion; real rules nest a handful deep.
const maxRuleDepth = 200

type ruleParser struct {
	rule  string
	pos   int
	depth int
}

func parseRule(rule string) (*ruleNode, error) {
	p := &ruleParser{rule: rule}
	node, err := p.or()
	if err == nil && p.peek() != 0 {
		err = p.unexpected("the end")
	}
	if err != nil {
		return nil, fmt.Errorf("read rule %q: %w", rule, err)
	}
	return node, nil
}

// peek skips white space and returns the next byte, zero at the end.
func (p *ruleParser) peek() byte {
	for p.pos < len(p.rule) && strings.IndexByte(" \t\r\n", p.rule[p.pos]) >= 0 {
		p.pos++
	}
	if p.pos == len(p.rule) {
		return 0
	}
	return p.rule[p.pos]
}

func (p *ruleParser) unexpected(want string) error {
	if p.peek() == 0 && p.pos == len(p.rule) {
		return fmt.Errorf("column %d: want %s, got the end", p.pos+1, want)
	}
	return fmt.Errorf("column %d: want %s, got %q", p.pos+1, want, p.rule[p.pos])
}

func (p *ruleParser) accept(token string) bool {
	p.peek()
	if strings.HasPrefix(p.rule[p.pos:], token) {
		p.pos += len(token)
		return true
	}
	return false
}

func (p *ruleParser) or() (*ruleNode, error)  { return p.chain(opOr, "||", p.and) }
func (p *ruleParser) and() (*ruleNode, error) { return p.chain(opAnd, "&&", p.not) }

func (p *ruleParser) chain(op ruleOp, token string, operand func() (*ruleNode, error)) (*ruleNode, error) {
	first, err := operand()
	if err != nil {
		return nil, err
	}
	node := &ruleNode{op: op, start: first.start, end: first.end, kids: []*ruleNode{first}}
	for p.accept(token) {
		next, err := operand()
		if err != nil {
			return nil, err
		}
		node.kids = append(node.kids, next)
		node.end = next.end
	}
	if len(node.kids) == 1 {
		return first, nil
	}
	return node, nil
}

func (p *ruleParser) not() (*ruleNode, error) {
	if p.depth++; p.depth > maxRuleDepth {
		return nil, fmt.Errorf("column %d: nested too deep", p.pos+1)
	}
	defer func() { p.depth-- }()
	p.peek()
	start := p.pos
	switch {
	case p.accept("!"):
		kid, err := p.not()
		if err != nil {
			return nil, err
		}
		return &ruleNode{op: opNot, start: start, end: kid.end, kids: []*ruleNode{kid}}, nil
	case p.accept("("):
		kid, err := p.or()
		if err != nil {
			return nil, err
		}
		if !p.accept(")") {
			return nil, p.unexpected(`"&&", "||" or ")"`)
		}
		return &ruleNode{op: opGroup, start: start, end: p.pos, kids: []*ruleNode{kid}}, nil
	}
	return p.call()
}

var matcherName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*`)

func (p *ruleParser) call() (*ruleNode, error) {
	p.peek()
	node := &ruleNode{op: opCall, start: p.pos, name: matcherName.FindString(p.rule[p.pos:])}
	if node.name == "" {
		return nil, p.unexpected("a matcher")
	}
	p.pos += len(node.name)
	if !p.accept("(") {
		return nil, p.unexpected(`"("`)
	}
	for !p.accept(")") {
		if len(node.args) > 0 && !p.accept(",") {
			return nil, p.unexpected(`"," or ")"`)
		}
		arg, err := p.value()
		if err != nil {
			return nil, err
		}
		node.args = append(node.args, arg)
	}
	node.end = p.pos
	return node, nil
}

func (p *ruleParser) value() (ruleArg, error) {
	quote := p.peek()
	if quote != '`' && quote != '"' {
		return ruleArg{}, p.unexpected("a value in backticks or double quotes")
	}
	arg := ruleArg{start: p.pos, quote: quote}
	quoted, err := strconv.QuotedPrefix(p.rule[p.pos:])
	if err != nil {
		return ruleArg{}, fmt.Errorf("column %d: the value doesn't end or has a wrong escape", p.pos+1)
	}
	p.pos += len(quoted)
	arg.end = p.pos
	arg.value, err = strconv.Unquote(quoted)
	if err != nil {
		return ruleArg{}, fmt.Errorf("column %d: %w", arg.start+1, err)
	}
	return arg, nil
}

func (a ruleArg) requote(value string) string {
	if a.quote == '`' {
		return "`" + value + "`"
	}
	return strconv.Quote(value)
}

// hosts returns the hosts that the matchers in a rule name, but not those that
// expressions stand for.
func (n *ruleNode) hosts() []string {
	var hosts []string
	if n.op == opCall && isHostMatcher(n.name) && !strings.HasSuffix(strings.ToLower(n.name), "regexp") {
		for _, arg := range n.args {
			if arg.value != "*" {
				hosts = append(hosts, arg.value)
			}
		}
	}
	for _, kid := range n.kids {
		hosts = append(hosts, kid.hosts()...)
	}
	return hosts
}

// splice puts text in the place of what is from start to before end.
type splice struct {
	start, end int
	text       string
}

// ruleEdit rewrites one rule.
type ruleEdit struct {
	rule    string
	hosts   hostMap
	splices []splice
}

// traefikRule maps the hosts that a rule matches: Host, HostHeader, HostSNI, those in
// the expressions of HostRegexp and HostSNIRegexp, and the header Host.
func (m hostMap) traefikRule(rule string) (string, error) {
	root, err := parseRule(rule)
	if err != nil {
		return "", err
	}
	e := &ruleEdit{rule: rule, hosts: m}
	e.visit(root, opGroup, alternatives(root))
	var b strings.Builder
	at := 0
	for _, s := range e.splices {
		b.WriteString(rule[at:s.start] + s.text)
		at = s.end
	}
	return b.String() + rule[at:], nil
}

// visit rewrites the calls below a node, and cuts alternatives that become what is
// there already. Present holds what the alternation around the node matches.
func (e *ruleEdit) visit(node *ruleNode, parent ruleOp, present map[string]bool) {
	switch node.op {
	case opCall:
		e.call(node, parent, present)
	case opOr, opGroup:
		kept := 0
		for i, kid := range node.kids {
			last := kept == 0 && i+1 == len(node.kids)
			switch {
			case node.op == opGroup || !e.repeats(kid, present) || last:
				e.visit(kid, node.op, present)
				kept++
			case kept == 0:
				e.splices = append(e.splices, splice{kid.start, node.kids[i+1].start, ""})
			default:
				e.splices = append(e.splices, splice{node.kids[i-1].end, kid.end, ""})
			}
		}
	case opAnd, opNot:
		for _, kid := range node.kids {
			e.visit(kid, node.op, alternatives(kid))
		}
	}
}

// repeats reports whether a node is one host that becomes another which is present.
// Expressions are not compared.
func (e *ruleEdit) repeats(node *ruleNode, present map[string]bool) bool {
	if node.op != opCall || !isHostMatcher(node.name) || len(node.args) != 1 || isExpression(node.name) {
		return false
	}
	to, mode, ok := e.hosts.lookup(node.args[0].value)
	if !ok || mode != HostReplace {
		return false
	}
	key := alternative(node.name, to)
	before := present[key]
	present[key] = true
	return before
}

func (e *ruleEdit) call(node *ruleNode, parent ruleOp, present map[string]bool) {
	if isHostHeader(node) {
		e.replace(node.name, node.args[1])
		return
	}
	if !isHostMatcher(node.name) {
		return
	}
	var beside []string
	for i, arg := range node.args {
		host, write := readHost(node.name, arg.value)
		to, mode, ok := e.hosts.lookup(host)
		if !ok {
			e.replace(node.name, arg)
			continue
		}
		value := arg.requote(write(to))
		if mode == HostReplace {
			e.splices = append(e.splices, splice{arg.start, arg.end, value})
			continue
		}
		if key := alternative(node.name, to); !present[key] {
			present[key] = true
			if len(node.args) == 1 {
				beside = append(beside, node.name+"("+value+")")
				continue
			}
			separator := ", "
			if i+1 < len(node.args) {
				separator = e.rule[arg.end:node.args[i+1].start]
			}
			e.splices = append(e.splices, splice{arg.end, arg.end, separator + value})
		}
	}
	if len(beside) == 0 {
		return
	}
	open, shut := "", ""
	if parent == opAnd || parent == opNot {
		open, shut = "(", ")"
	}
	e.splices = append(e.splices,
		splice{node.start, node.start, open},
		splice{node.end, node.end, " || " + strings.Join(beside, " || ") + shut})
}

// replace maps the hosts in a value where only one fits, or in an expression of
// another shape than readHost knows.
func (e *ruleEdit) replace(matcher string, arg ruleArg) {
	to, changed := "", false
	if isExpression(matcher) {
		to = e.hosts.expression(arg.value)
		changed = to != arg.value
	} else {
		to, changed = one(e.hosts, arg.value)
	}
	if changed {
		e.splices = append(e.splices, splice{arg.start, arg.end, arg.requote(to)})
	}
}

// isHostHeader tells matchers of the header Host: Header and HeaderRegexp, which
// Traefik v2 calls Headers and HeadersRegexp.
func isHostHeader(node *ruleNode) bool {
	return slices.Contains([]string{"header", "headers", "headerregexp", "headersregexp"}, strings.ToLower(node.name)) &&
		len(node.args) == 2 && strings.EqualFold(node.args[0].value, "Host")
}

// alternatives collects the hosts that are alternatives of each other in a node.
func alternatives(node *ruleNode) map[string]bool {
	found := map[string]bool{}
	var collect func(*ruleNode)
	collect = func(n *ruleNode) {
		switch n.op {
		case opOr, opGroup:
			for _, kid := range n.kids {
				collect(kid)
			}
		case opCall:
			for _, arg := range n.args {
				if isHostMatcher(n.name) {
					host, _ := readHost(n.name, arg.value)
					found[alternative(n.name, host)] = true
				}
			}
		}
	}
	collect(node)
	return found
}

func alternative(matcher, host string) string { return strings.ToLower(matcher + " " + host) }

func isExpression(matcher string) bool { return strings.HasSuffix(strings.ToLower(matcher), "regexp") }

func isHostMatcher(name string) bool {
	return slices.Contains([]string{"host", "hostheader", "hostsni", "hostregexp", "hostsniregexp"}, strings.ToLower(name))
}

var (
	literalRegexp = regexp.MustCompile(`^(\^?)((?:[A-Za-z0-9-]|\\?\.)+)(\$?)$`)
	suffixRegexp  = regexp.MustCompile(`^(.*[)\]}*+?])((?:\\?\.[A-Za-z0-9-]+)+)(\$?)$`)
)

// readHost returns the host that a matcher's value stands for, which begins with
// an asterisk when it stands for every host below a domain, and is empty when it
// stands for others; and how to write another host the same way.
func readHost(matcher, value string) (host string, write func(string) string) {
	if !isExpression(matcher) {
		return value, func(host string) string { return host }
	}
	every := ""
	m := literalRegexp.FindStringSubmatch(value)
	if m == nil {
		every = "*"
		if m = suffixRegexp.FindStringSubmatch(value); m == nil {
			return "", nil
		}
	}
	return every + strings.ReplaceAll(m[2], `\.`, "."), func(host string) string {
		host = strings.TrimPrefix(host, every)
		if strings.Contains(m[2], `\.`) {
			host = regexp.QuoteMeta(host)
		}
		return m[1] + host + m[3]
	}
}
