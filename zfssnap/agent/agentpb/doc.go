// Package agentpb is the agent's protocol, generated from agent.proto.
package agentpb

//go:generate protoc -I ../../.. --go_out=../../.. --go_opt=paths=source_relative --go-grpc_out=../../.. --go-grpc_opt=paths=source_relative zfssnap/agent/agentpb/agent.proto
