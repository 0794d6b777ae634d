// The S3 server of the tests: versitygw on a folder, and its accounts, in one process.
//
//	versitygw --listen 127.0.0.1:7070 --accounts-listen 127.0.0.1:7071 --folder DIR
//
// The owner's keys are $ROOT_ACCESS_KEY and $ROOT_SECRET_KEY. The accounts are an IAM API over DIR/iam/iam.json, which is read anew for every
// request. Where versitygw answers unlike Amazon in what the tests ask, package main puts it right: see amazon.
package main

import (
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/valyala/fasthttp"
	"github.com/versity/versitygw/backend"
	"github.com/versity/versitygw/backend/meta"
	"github.com/versity/versitygw/backend/posix"
	"github.com/versity/versitygw/embedgw"
	"github.com/versity/versitygw/s3api/middlewares"
	"github.com/versity/versitygw/s3err"
	"github.com/versity/versitygw/s3response"
)

func main() {
	listen := flag.String("listen", "127.0.0.1:7070", "address of S3")
	accountsListen := flag.String("accounts-listen", "127.0.0.1:7071", "address of the IAM API")
	folder := flag.String("folder", "", "where everything is kept")
	region := flag.String("region", "us-east-1", "the region")
	flag.Parse()
	if *folder == "" || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *listen, *accountsListen, *folder, *region); err != nil && !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

func run(ctx context.Context, listen, accountsListen, folder, region string) error {
	in := func(name string) string { return filepath.Join(folder, name) }
	data, versions, attributes, accounts := in("data"), in("versions"), in("attributes"), in("iam")
	for _, path := range []string{data, versions, attributes, accounts} {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
	}
	access, secret := os.Getenv("ROOT_ACCESS_KEY"), os.Getenv("ROOT_SECRET_KEY")

	// A socket without a file, of a name that no other server has.
	private := "@versitygw-" + strings.ReplaceAll(listen, ":", "-")
	failed := make(chan error, 2)
	go func() {
		failed <- embedgw.RunIAMAPI(ctx, &embedgw.IAMConfig{
			RootUserAccess: access, RootUserSecret: secret, Region: region, IAMDir: accounts, Quiet: true, KeepAlive: true,
			Ports: []string{accountsListen}, PrivatePorts: []string{private}, MaxConnections: 1000, MaxRequests: 1000,
			DisableOIDCThumbprintAutoFetch: true,
		})
	}()
	for {
		if connection, err := net.Dial("unix", private); err == nil {
			connection.Close()
			break
		}
		select {
		case err := <-failed:
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}

	// Not every file system has extended attributes; those in memory may not.
	var attributesOf meta.MetadataStorer = meta.XattrMeta{}
	options := posix.PosixOpts{Concurrency: 1000, VersioningDir: versions, CopyObjectThreshold: 5 << 30}
	if syscall.Setxattr(data, "user.portcullis", []byte("x"), 0) != nil {
		sideCar, err := meta.NewSideCar(attributes)
		if err != nil {
			return err
		}
		attributesOf, options.SideCarDir = sideCar, attributes
	}
	files, err := posix.New(data, attributesOf, options)
	if err != nil {
		return err
	}
	go func() {
		failed <- embedgw.RunVersityGW(ctx, amazon{files}, &embedgw.Config{
			RootUserAccess: access, RootUserSecret: secret, Region: region, Ports: []string{listen}, Quiet: true, KeepAlive: true,
			MaxConnections: 10000, MaxRequests: 10000, MultipartMaxParts: 10000, StandaloneIAMEndpoint: private,
		})
	}()
	return <-failed
}

// amazon is a backend whose answers differ less from Amazon's.
type amazon struct{ backend.Backend }

// PutObject stores nothing when a client goes away before the end of its file, nor under a longer key than Amazon's.
func (a amazon) PutObject(ctx context.Context, input s3response.PutObjectInput) (s3response.PutObjectOutput, error) {
	if input.Key != nil && len(*input.Key) > 1024 {
		return s3response.PutObjectOutput{}, s3err.GetKeyTooLongErr(int64(len(*input.Key)), 1024)
	}
	input.Body = whole(input.Body, input.ContentLength)
	return a.Backend.PutObject(ctx, input)
}

func (a amazon) UploadPart(ctx context.Context, input *s3.UploadPartInput) (*s3.UploadPartOutput, error) {
	input.Body = whole(input.Body, input.ContentLength)
	return a.Backend.UploadPart(ctx, input)
}

func whole(body io.Reader, length *int64) io.Reader {
	// A body in signed chunks tells its end itself.
	if _, ok := body.(middlewares.ChecksumReader); ok || body == nil || length == nil {
		return body
	}
	return &wholeBody{body, *length}
}

type wholeBody struct {
	body io.Reader
	left int64
}

func (w *wholeBody) Read(into []byte) (int, error) {
	n, err := w.body.Read(into)
	w.left -= int64(n)
	if err == io.EOF && w.left > 0 {
		err = s3err.GetAPIError(s3err.ErrIncompleteBody)
	}
	return n, err
}

// GetObject compares dates by the second, as Last-Modified has no more, and tells the validators with a 304.
func (a amazon) GetObject(ctx context.Context, input *s3.GetObjectInput) (*s3.GetObjectOutput, error) {
	wholeSecond(input.IfModifiedSince)
	wholeSecond(input.IfUnmodifiedSince)
	output, err := a.Backend.GetObject(ctx, input)
	a.validators(ctx, err, &s3.HeadObjectInput{Bucket: input.Bucket, Key: input.Key, VersionId: input.VersionId, Range: input.Range})
	return output, err
}

func (a amazon) HeadObject(ctx context.Context, input *s3.HeadObjectInput) (*s3.HeadObjectOutput, error) {
	wholeSecond(input.IfModifiedSince)
	wholeSecond(input.IfUnmodifiedSince)
	output, err := a.Backend.HeadObject(ctx, input)
	a.validators(ctx, err, &s3.HeadObjectInput{Bucket: input.Bucket, Key: input.Key, VersionId: input.VersionId, Range: input.Range})
	return output, err
}

func wholeSecond(date *time.Time) {
	if date != nil {
		*date = date.Truncate(time.Second).Add(time.Second - 1)
	}
}

func (a amazon) validators(ctx context.Context, err error, input *s3.HeadObjectInput) {
	var refused s3err.S3Error
	request, ok := ctx.(*fasthttp.RequestCtx)
	if !ok || !errors.As(err, &refused) || refused.StatusCode() != http.StatusNotModified {
		return
	}
	everything := ""
	input.Range = &everything
	if object, err := a.Backend.HeadObject(ctx, input); err == nil {
		request.Response.Header.Set("ETag", *object.ETag)
		request.Response.Header.Set("Last-Modified", object.LastModified.UTC().Format(http.TimeFormat))
		if object.CacheControl != nil {
			request.Response.Header.Set("Cache-Control", *object.CacheControl)
		}
	}
}

// ListObjectsV2 encodes the keys where the request asks for it.
func (a amazon) ListObjectsV2(ctx context.Context, input *s3.ListObjectsV2Input) (s3response.ListObjectsV2Result, error) {
	result, err := a.Backend.ListObjectsV2(ctx, input)
	if err == nil && wantsURLs(ctx) {
		result.EncodingType = types.EncodingTypeUrl
		encode(&result.Prefix, &result.StartAfter, &result.Delimiter)
		encodeAll(result.Contents, result.CommonPrefixes)
	}
	return result, err
}

func (a amazon) ListObjects(ctx context.Context, input *s3.ListObjectsInput) (s3response.ListObjectsResult, error) {
	result, err := a.Backend.ListObjects(ctx, input)
	if err == nil && wantsURLs(ctx) {
		result.EncodingType = types.EncodingTypeUrl
		encode(&result.Prefix, &result.Marker, &result.NextMarker, &result.Delimiter)
		encodeAll(result.Contents, result.CommonPrefixes)
	}
	return result, err
}

func wantsURLs(ctx context.Context) bool {
	request, ok := ctx.(*fasthttp.RequestCtx)
	return ok && string(request.QueryArgs().Peek("encoding-type")) == "url"
}

func encodeAll(objects []s3response.Object, prefixes []types.CommonPrefix) {
	for i := range objects {
		encode(&objects[i].Key)
	}
	for i := range prefixes {
		encode(&prefixes[i].Prefix)
	}
}

// encode leaves `/` and `*` and makes a space `+`.
func encode(values ...**string) {
	for _, value := range values {
		if *value != nil {
			encoded := strings.NewReplacer("%2F", "/", "%2A", "*").Replace(url.QueryEscape(**value))
			*value = &encoded
		}
	}
}
