// Command demo tells the product's main job as a story on the rig, with real
// parts only: a WordPress-like application on OpenZFS is backed up by a Velero
// schedule, replicated, rehearsed, and failed over when its site is gone. Before, a small
// one is moved to the other site and home again: Velero looks once a minute for backups
// of other sites, and the time is not lost.
// "demo sites" measures what a warm and a hot site are worth.
// "demo rebuild" tells another one: a fresh cluster comes up from Git, and gets what
// Git does not hold. Every claim it prints was checked; the exit status is 0 only if all hold.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	rig := flag.String("rig", "demo", "name of the rig to use; it is made anew")
	down := flag.Bool("down", false, "take the rig down afterwards")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	s := &story{out: os.Stdout, env: os.Environ(), started: time.Now()}
	d := &demo{story: s, rig: *rig}
	chapters := d.chapters()
	switch args := flag.Args(); {
	case len(args) == 1 && args[0] == "rebuild":
		chapters = d.rebuildChapters()
	case len(args) == 1 && args[0] == "wordpress":
		chapters = d.wordpressChapters()
	case len(args) == 1 && args[0] == "sites":
		chapters = d.siteChapters()
	case len(args) > 0:
		fmt.Fprintf(os.Stderr, "error: there is no story %q; want none, rebuild, wordpress or sites\n", strings.Join(args, " "))
		os.Exit(1)
	}
	err := d.tell(ctx, chapters)
	if *down {
		_, _, downErr := s.show(context.WithoutCancel(ctx), "lab", "down", "--name", *rig)
		err = errors.Join(err, downErr)
	}
	fmt.Printf("\n%d claims checked, %d broken, in %s\n", s.checked, len(s.broken), s.elapsed())
	if !*down {
		fmt.Printf("The rig is still up: bin/lab status --name %[1]s; bin/lab down --name %[1]s\n", *rig)
	}
	for _, b := range s.broken {
		fmt.Printf("  ✗ %s\n", b)
	}
	if err != nil && !errors.Is(err, errBroken) {
		fmt.Fprintln(os.Stderr, "error:", err)
	}
	if err != nil || len(s.broken) > 0 {
		os.Exit(1)
	}
}

// chapter is a part of a story.
type chapter struct {
	title string
	run   func(context.Context) error
}

func (d *demo) chapters() []chapter {
	return []chapter{
		{"Two sites come up", d.bringUp},
		{"An application with real files runs at the primary site", d.installBoth},
		{"Velero backs it up; Completed means the copy is off-site", d.firstBackup},
		{"While the other site learns of it, a small application moves there, and nothing is lost", d.moveNotes},
		{"It comes home, with what was written meanwhile", d.bringNotesHome},
		{"How much would be lost now, and is the other site ready?", d.measure},
		{"A rehearsal on clones, while the next backup moves only what changed", d.drill},
		{"The primary site is gone", d.disaster},
		{"Failover", d.failover},
		{"What runs at the recovery site now", d.inspect},
		{"The report", d.report},
	}
}

// tell runs the chapters in order and stops at the first that cannot be told.
func (d *demo) tell(ctx context.Context, chapters []chapter) error {
	for _, c := range chapters {
		d.begin(c.title)
		if err := c.run(ctx); err != nil {
			return err
		}
	}
	return nil
}

// useRig makes the rig's programs and kubeconfigs those of every command.
func (s *story) useRig(ctx context.Context, rig string, more ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	s.setEnv("PATH", filepath.Dir(self)+":"+os.Getenv("PATH"))
	if err := os.Setenv("PATH", filepath.Dir(self)+":"+os.Getenv("PATH")); err != nil {
		return err
	}
	// The story starts with two healthy sites; an earlier run left one dead.
	if _, _, err := s.show(ctx, "lab", "down", "--name", rig); err != nil {
		return err
	}
	if _, code, err := s.show(ctx, append([]string{"lab", "up", "--name", rig}, more...)...); err != nil || code != 0 {
		return errors.Join(err, fmt.Errorf("lab up: exit status %d", code))
	}
	lines, err := s.output(ctx, "lab", "env", "--name", rig)
	if err != nil {
		return err
	}
	for line := range strings.Lines(lines) {
		name, value, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "export "), "=")
		if !ok {
			continue
		}
		value = strings.Trim(value, `"'`)
		value = os.Expand(value, os.Getenv)
		if err := os.Setenv(name, value); err != nil {
			return err
		}
		s.setEnv(name, value)
	}
	return nil
}

func (s *story) setEnv(name, value string) { s.env = append(s.env, name+"="+value) }
