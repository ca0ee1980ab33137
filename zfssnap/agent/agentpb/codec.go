package agentpb

import (
	"encoding/binary"

	"google.golang.org/grpc/encoding"
	"google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/encoding/protowire"
)

// Codec is the codec of gRPC's messages, protobuf, with two more of them that
// are a ReceiveRequest on the wire: *Data and *Part. The data of a stream passes
// through it without being copied.
type Codec struct{ encoding.CodecV2 }

// NewCodec returns one, for grpc.ForceCodecV2 and grpc.ForceServerCodecV2.
func NewCodec() Codec { return Codec{encoding.GetCodecV2(proto.Name)} }

// Data is a ReceiveRequest with data. Sending it takes the buffer over.
type Data struct{ Buffer mem.Buffer }

// Part is a ReceiveRequest as it is received: Data when it has data, which is to
// be read or closed, and otherwise Request.
type Part struct {
	Data    *mem.Reader
	Request ReceiveRequest
}

// dataField is the number of the field data in ReceiveRequest.
const dataField = 2

// Marshal implements encoding.CodecV2.
func (c Codec) Marshal(v any) (mem.BufferSlice, error) {
	d, ok := v.(*Data)
	if !ok {
		return c.CodecV2.Marshal(v)
	}
	head := protowire.AppendTag(nil, dataField, protowire.BytesType)
	head = protowire.AppendVarint(head, uint64(d.Buffer.Len()))
	return mem.BufferSlice{mem.SliceBuffer(head), d.Buffer}, nil
}

// Unmarshal implements encoding.CodecV2.
func (c Codec) Unmarshal(data mem.BufferSlice, v any) error {
	p, ok := v.(*Part)
	if !ok {
		return c.CodecV2.Unmarshal(data, v)
	}
	r := data.Reader()
	tag, err := binary.ReadUvarint(r)
	if err == nil && tag == protowire.EncodeTag(dataField, protowire.BytesType) {
		n, err := binary.ReadUvarint(r)
		if err == nil && n == uint64(r.Remaining()) {
			p.Data = r
			return nil
		}
	}
	// Not data alone, or nothing that was sent by Marshal.
	_ = r.Close()
	return c.CodecV2.Unmarshal(data, &p.Request)
}
