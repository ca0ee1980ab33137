package agent

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kubectl-dr/kubectl-dr/zfssnap/agent/agentpb"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/archive"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/names"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/replicate"
	"github.com/kubectl-dr/kubectl-dr/zfssnap/zfs"
)

// Causes that callers tell apart with errors.Is, on the server's side and,
// through a Client, on the caller's.
var (
	ErrInvalid     = zfs.ErrInvalidName
	ErrNotFound    = zfs.ErrNotFound
	ErrExists      = zfs.ErrExists
	ErrNoSpace     = zfs.ErrNoSpace
	ErrBusy        = zfs.ErrBusy
	ErrHeld        = zfs.ErrHeld
	ErrHasClones   = zfs.ErrHasClones
	ErrHasChildren = zfs.ErrHasChildren
	ErrKey         = zfs.ErrKeyUnavailable
	ErrPool        = zfs.ErrPoolUnavailable
	ErrDiverged    = replicate.ErrDiverged
	ErrFenced      = replicate.ErrFenced
	ErrSuperseded  = replicate.ErrSuperseded
	ErrOccupied    = replicate.ErrOccupied
	ErrIncomplete  = replicate.ErrIncomplete
	ErrStreamMode  = replicate.ErrStreamMode
	// ErrDenied: the policy does not allow it to this identity.
	ErrDenied = errors.New("not allowed")
	// ErrForeign: it is not ours to destroy or to write to.
	ErrForeign = errors.New("not made by kubectl-dr")
	// ErrMismatch: what has that name is something else than was asked for.
	ErrMismatch = errors.New("not the same")
	// ErrSkew: the snapshots of a group would not be of one instant.
	ErrSkew = errors.New("group is not of one instant")
	// ErrInUse: another host has the pool imported.
	ErrInUse = zfs.ErrPoolActive
	// ErrUnprotected: nothing would keep two hosts from writing to a pool at once.
	ErrUnprotected = errors.New("pool is not protected against a second host")
	// ErrUnreachable: there was no connection to the agent, or it broke.
	ErrUnreachable = errors.New("agent is unreachable")
	// ErrUntrusted: what answers there could not prove to be the agent. Asking
	// again does not help until somebody changes a certificate or an address.
	ErrUntrusted = errors.New("agent cannot be verified")
	// ErrNoArchive: the agent's configuration has no archive of that name.
	ErrNoArchive = errors.New("no such archive")
	// ErrArchive: an archive does not answer, or fails.
	ErrArchive = errors.New("archive is unavailable")
	// ErrStalled: a transfer moved no data for too long.
	ErrStalled = errors.New("transfer is stalled")
	// ErrCancelled: the transfer was cancelled.
	ErrCancelled = errors.New("cancelled")
)

// reasons maps causes to what travels: a gRPC code, and a word that tells apart
// what has the same code. The first match counts.
var reasons = []struct {
	err    error
	code   codes.Code
	reason string
}{
	{ErrDenied, codes.PermissionDenied, "DENIED"},
	{ErrInvalid, codes.InvalidArgument, "INVALID"},
	{ErrFenced, codes.FailedPrecondition, "FENCED"},
	{ErrDiverged, codes.FailedPrecondition, "DIVERGED"},
	{ErrSuperseded, codes.FailedPrecondition, "SUPERSEDED"},
	{ErrOccupied, codes.FailedPrecondition, "OCCUPIED"},
	{ErrStreamMode, codes.FailedPrecondition, "STREAM_MODE"},
	{ErrForeign, codes.FailedPrecondition, "FOREIGN"},
	{ErrMismatch, codes.FailedPrecondition, "MISMATCH"},
	{ErrHasClones, codes.FailedPrecondition, "HAS_CLONES"},
	{ErrHasChildren, codes.FailedPrecondition, "HAS_CHILDREN"},
	{ErrHeld, codes.FailedPrecondition, "HELD"},
	{ErrBusy, codes.FailedPrecondition, "BUSY"},
	{ErrKey, codes.FailedPrecondition, "KEY_UNAVAILABLE"},
	{zfs.ErrSeveralPools, codes.InvalidArgument, "SEVERAL_POOLS"},
	{ErrSkew, codes.FailedPrecondition, "SKEW"},
	{zfs.ErrResumeStale, codes.FailedPrecondition, "RESUME_STALE"},
	{zfs.ErrPartial, codes.FailedPrecondition, "PARTIAL"},
	{ErrNoArchive, codes.FailedPrecondition, "NO_ARCHIVE"},
	{archive.ErrForeign, codes.FailedPrecondition, "FOREIGN"},
	{archive.ErrSealed, codes.FailedPrecondition, "SEALED"},
	{archive.ErrLocked, codes.FailedPrecondition, "LOCKED"},
	{archive.ErrRefused, codes.FailedPrecondition, "ARCHIVE_REFUSED"},
	{archive.ErrBroken, codes.DataLoss, "BROKEN_CHAIN"},
	{archive.ErrDamaged, codes.DataLoss, "DAMAGED"},
	{archive.ErrChanged, codes.Aborted, "CHANGED"},
	{archive.ErrInvalid, codes.FailedPrecondition, "INVALID_ARCHIVE"},
	{ErrInUse, codes.FailedPrecondition, "POOL_IN_USE"},
	{ErrUnprotected, codes.FailedPrecondition, "POOL_UNPROTECTED"},
	{zfs.ErrNoHostID, codes.FailedPrecondition, "NO_HOSTID"},
	{ErrStalled, codes.Aborted, "STALLED"},
	{ErrPool, codes.Unavailable, "POOL_UNAVAILABLE"},
	{ErrNoSpace, codes.ResourceExhausted, "NO_SPACE"},
	{ErrExists, codes.AlreadyExists, "EXISTS"},
	{ErrUnreachable, codes.Unavailable, "UNREACHABLE"},
	{ErrArchive, codes.Unavailable, "ARCHIVE_UNAVAILABLE"},
	{ErrUntrusted, codes.Unauthenticated, "UNTRUSTED"},
	{ErrCancelled, codes.Canceled, "CANCELLED"},
	{ErrIncomplete, codes.DataLoss, "INCOMPLETE"},
	{ErrNotFound, codes.NotFound, "NOT_FOUND"},
	{zfs.ErrPermission, codes.Internal, "ZFS_PERMISSION"},
	{context.DeadlineExceeded, codes.DeadlineExceeded, "TIMEOUT"},
	{context.Canceled, codes.Canceled, "CANCELLED"},
}

func classify(err error) (codes.Code, string) {
	for _, r := range reasons {
		if errors.Is(err, r.err) {
			return r.code, r.reason
		}
	}
	return codes.Unknown, ""
}

func cause(reason string) error {
	for _, r := range reasons {
		if reason != "" && r.reason == reason {
			return r.err
		}
	}
	return nil
}

// toStatus makes an error fit to travel.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	code, reason := classify(err)
	if s, ok := status.FromError(err); ok && code == codes.Unknown {
		return s.Err()
	}
	s := status.New(code, err.Error())
	if reason == "" {
		return s.Err()
	}
	info := &errdetails.ErrorInfo{Reason: reason, Domain: names.Domain}
	var hinter interface{ Hint() string }
	if errors.As(err, &hinter) {
		info.Metadata = map[string]string{"hint": hinter.Hint()}
	}
	detailed, detailErr := s.WithDetails(info)
	if detailErr != nil {
		return s.Err()
	}
	return detailed.Err()
}

// Error is what an agent answered, or that none did.
type Error struct {
	Node    string
	Address string
	Cause   error // one of the causes above, or nil when it is not known
	status  *status.Status
	hint    string
}

// fromStatus makes an error of what a call returned.
func fromStatus(node, address string, handshake, err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &Error{Node: node, Address: address, status: s}
	for _, d := range s.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == names.Domain {
			e.Cause, e.hint = cause(info.GetReason()), info.GetMetadata()["hint"]
		}
	}
	if e.Cause != nil {
		return e
	}
	switch s.Code() {
	case codes.Unavailable:
		e.Cause, e.hint = ErrUnreachable, unreachableHint(node, address, handshake)
		if untrusted(handshake) && strings.Contains(s.Message(), "authentication handshake failed") {
			e.Cause, e.status = ErrUntrusted, status.New(codes.Unauthenticated, s.Message())
		}
	case codes.DeadlineExceeded:
		e.Cause = context.DeadlineExceeded
	case codes.Canceled:
		e.Cause = context.Canceled
	}
	return e
}

func (e *Error) Error() string {
	switch {
	case errors.Is(e.Cause, ErrUnreachable):
		return fmt.Sprintf("agent on node %s at %s is unreachable: %s", e.Node, e.Address, e.status.Message())
	case errors.Is(e.Cause, ErrUntrusted):
		return fmt.Sprintf("agent on node %s at %s cannot be verified: %s", e.Node, e.Address, e.status.Message())
	case errors.Is(e.Cause, context.DeadlineExceeded):
		return fmt.Sprintf("agent on node %s at %s did not answer in time: %s", e.Node, e.Address, e.status.Message())
	default:
		return e.status.Message()
	}
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Cause }

// GRPCStatus lets status.Code see the code.
func (e *Error) GRPCStatus() *status.Status { return e.status }

// Hint says what can be done about it, "" when there is nothing to say.
func (e *Error) Hint() string { return e.hint }

// TransferError returns why a transfer failed or was cancelled, nil for one
// that did not.
func TransferError(t *agentpb.Transfer) error {
	switch t.GetState() {
	case agentpb.Transfer_FAILED, agentpb.Transfer_CANCELLED:
		return &transferError{message: t.GetError(), cause: cause(t.GetReason())}
	}
	return nil
}

type transferError struct {
	message string
	cause   error
}

func (e *transferError) Error() string { return e.message }
func (e *transferError) Unwrap() error { return e.cause }
