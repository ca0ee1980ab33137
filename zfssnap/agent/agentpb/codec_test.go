package agentpb

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// split makes a message of buffers of n bytes, as they come from a network.
func split(b []byte, n int) (s mem.BufferSlice) {
	for ; len(b) > 0; b = b[min(n, len(b)):] {
		s = append(s, mem.SliceBuffer(b[:min(n, len(b))]))
	}
	return s
}

func TestCodec_DataIsAReceiveRequestOnTheWire(t *testing.T) {
	t.Parallel()
	data := bytes.Repeat([]byte("zfs"), 1000)
	want, err := proto.Marshal(&ReceiveRequest{Part: &ReceiveRequest_Data{Data: data}})
	require.NoError(t, err)
	c := NewCodec()
	got, err := c.Marshal(&Data{Buffer: mem.SliceBuffer(data)})
	require.NoError(t, err)
	assert.Equal(t, want, got.Materialize())

	for _, n := range []int{1, 2, 5, 1000, len(want)} {
		var p Part
		require.NoError(t, c.Unmarshal(split(want, n), &p))
		read, err := io.ReadAll(p.Data)
		require.NoError(t, err)
		assert.True(t, bytes.Equal(data, read), "in buffers of %d bytes", n)
	}
}

func TestCodec_OtherPartsAreMessages(t *testing.T) {
	t.Parallel()
	c := NewCodec()
	for _, want := range []*ReceiveRequest{
		{Part: &ReceiveRequest_Header{Header: &ReceiveHeader{Dataset: "tank/a", Guid: 7}}},
		{Part: &ReceiveRequest_End{End: &ReceiveEnd{Bytes: 300}}},
		{},
	} {
		b, err := c.Marshal(want)
		require.NoError(t, err)
		var p Part
		require.NoError(t, c.Unmarshal(b, &p))
		assert.Nil(t, p.Data)
		assert.True(t, proto.Equal(want, &p.Request), "%v", &p.Request)
	}
}

func TestCodec_DataThatIsNotAllOfAMessage(t *testing.T) {
	t.Parallel()
	c := NewCodec()
	whole, err := proto.Marshal(&ReceiveRequest{Part: &ReceiveRequest_Data{Data: []byte("some data")}})
	require.NoError(t, err)
	var p Part
	require.Error(t, c.Unmarshal(split(whole[:len(whole)-1], 4), &p), "cut off")
	require.Error(t, c.Unmarshal(split(whole[:1], 4), &p), "cut off before its length")

	// What follows replaces it, as protobuf has it.
	end, err := proto.Marshal(&ReceiveRequest{Part: &ReceiveRequest_End{End: &ReceiveEnd{Bytes: 9}}})
	require.NoError(t, err)
	require.NoError(t, c.Unmarshal(split(append(whole, end...), 4), &p))
	assert.Nil(t, p.Data)
	assert.EqualValues(t, 9, p.Request.GetEnd().GetBytes())
}

func FuzzCodec(f *testing.F) {
	for _, m := range []*ReceiveRequest{
		{Part: &ReceiveRequest_Data{Data: []byte("data")}},
		{Part: &ReceiveRequest_Header{Header: &ReceiveHeader{Dataset: "tank/a"}}},
	} {
		b, err := proto.Marshal(m)
		require.NoError(f, err)
		f.Add(b)
	}
	c := NewCodec()
	f.Fuzz(func(t *testing.T, b []byte) {
		var want ReceiveRequest
		var got Part
		wantErr := proto.Unmarshal(b, &want)
		err := c.Unmarshal(split(b, 3), &got)
		require.Equal(t, wantErr == nil, err == nil)
		if err != nil || got.Data == nil {
			return
		}
		data, err := io.ReadAll(got.Data)
		require.NoError(t, err)
		require.True(t, bytes.Equal(want.GetData(), data))
	})
}
