package agent

import "sync"

// background is what a server does beside answering calls.
type background struct {
	mu      sync.Mutex
	stopped bool
	running sync.WaitGroup
}

// Go runs f, unless the server has stopped.
func (b *background) Go(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped {
		b.running.Go(f)
	}
}

// Wait returns when all has ended; nothing more is run.
func (b *background) Wait() {
	b.mu.Lock()
	b.stopped = true
	b.mu.Unlock()
	b.running.Wait()
}
