package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strings"
)

var (
	//go:embed wordpress/install.php
	installWordPress string
	//go:embed wordpress/post.php
	publishPost string
)

// Names of the site, as profiles of examples/wordpress make them.
const (
	siteName  = "vegard.blog.example.org"
	drillName = "vegard-drill.blog.example.org"
)

// picture is an uploaded file: its path on the site, and its checksum.
type picture struct{ path, sum string }

func (d *demo) wordpressChapters() []chapter {
	d.up = []string{"--wordpress"}
	return []chapter{
		{"Two sites come up, whose nodes have images of MariaDB and WordPress", d.bringUp},
		{"A blog is installed at the primary site", d.installBlog},
		{"Velero backs it up; Completed means the copy is off-site", d.firstBackup},
		{"How much would be lost now, and is the other site ready?", d.measure},
		{"A rehearsal: count rows, and read the front page under the drill's name", d.rehearseBlog},
		{"The blog moves to the other site", d.moveBlog},
		{"What runs at the recovery site now", d.readBlog},
		{"The blog moves home, with what was written meanwhile", d.bringBlogHome},
		{"The report", d.report},
	}
}

func (d *demo) installBlog(ctx context.Context) error {
	if err := d.deploy(ctx, filepath.Join("real", "plan.yaml"), []string{"-k", filepath.Join("test", "lab", "demo", "wordpress")}); err != nil {
		return err
	}
	d.say("WordPress makes its tables, and gets posts with pictures.")
	if _, err := d.php(ctx, "primary", installWordPress); err != nil {
		return err
	}
	for _, title := range []string{"Hello from hassio", "A proper DR infrastructure", "Storage classes"} {
		if err := d.publish(ctx, "primary", title); err != nil {
			return err
		}
	}
	version, err := d.sql(ctx, "primary", "SELECT VERSION()")
	if err != nil {
		return err
	}
	d.say("MariaDB %s has the tables of WordPress.", strings.TrimSpace(version))
	if err := d.prepareWayHome(ctx); err != nil {
		return err
	}
	return d.frontPage(ctx, "primary", siteName)
}

// recoveryStorage is where backups go while an application runs at the recovery site.
const recoveryStorage = `
apiVersion: velero.io/v1
kind: BackupStorageLocation
metadata: {name: recovery, namespace: velero}
spec:
  provider: aws
  accessMode: %s
  objectStorage: {bucket: recovery}
  config: {region: us-east-1, s3ForcePathStyle: "true", s3Url: %q}
`

// prepareWayHome makes what a failback needs.
func (d *demo) prepareWayHome(ctx context.Context) error {
	if err := d.recoveryLocation(ctx); err != nil {
		return err
	}
	_, err := d.kubectl(ctx, "primary", "apply", "-f", example("home.yaml"))
	return err
}

// recoveryLocation makes the location that the recovery site writes to.
func (d *demo) recoveryLocation(ctx context.Context) error {
	url, err := d.kubectl(ctx, "primary", "-n", "velero", "get", "backupstoragelocation.velero.io", "default", "-o", "jsonpath={.spec.config.s3Url}")
	if err != nil {
		return err
	}
	for site, mode := range map[string]string{"primary": "ReadOnly", "dr": "ReadWrite"} {
		location := fmt.Sprintf(recoveryStorage, mode, url)
		if _, err := d.input(ctx, strings.NewReader(location), "kubectl", "--context", site, "apply", "-f", "-"); err != nil {
			return err
		}
	}
	return nil
}

// php runs a script in the web server's pod.
func (d *demo) php(ctx context.Context, site, script string, args ...string) (string, error) {
	return d.input(ctx, strings.NewReader(script), append([]string{"kubectl", "--context", site, "-n", namespace, "exec", "-i", "deployment/wordpress", "--", "php", "--"}, args...)...)
}

// publish adds a post with a picture.
func (d *demo) publish(ctx context.Context, site, title string) error {
	out, err := d.php(ctx, site, publishPost, title)
	if err != nil {
		return err
	}
	f := strings.Fields(out)
	if len(f) != 2 {
		return fmt.Errorf("publish %q: it says %q", title, out)
	}
	d.pictures, d.newest = append(d.pictures, picture{f[0], f[1]}), title
	d.posts, err = d.sql(ctx, site, allPosts)
	return err
}

// allPosts says how many posts there are, and gives the checksum of all of them.
const allPosts = "SELECT COUNT(*), SHA2(GROUP_CONCAT(ID, post_title, post_content ORDER BY ID SEPARATOR '\\n'), 256) FROM wp_posts WHERE post_status = 'publish'"

// sql asks the database as WordPress does, by its user and password.
func (d *demo) sql(ctx context.Context, site, query string) (string, error) {
	return d.kubectl(ctx, site, "-n", namespace, "exec", "deployment/wordpress-db", "--", "sh", "-c",
		`MYSQL_PWD="$MARIADB_PASSWORD" exec mariadb --host=127.0.0.1 --user=wordpress --batch --skip-column-names --execute="$1" wordpress`, "sh", query)
}

// get fetches something from the web server, as whoever ends TLS asks for it, and
// pipes it through a command.
func (d *demo) get(ctx context.Context, site, host, path, pipe string) (string, error) {
	return d.kubectl(ctx, site, "-n", namespace, "exec", "deployment/wordpress", "--", "sh", "-c",
		`wget -q -O - --header "Host: $1" --header "X-Forwarded-Proto: https" "http://127.0.0.1$2" | `+pipe, "sh", host, path)
}

var link = regexp.MustCompile(`(?:href|src|action)="https?://([^/"]+)`)

// frontPage claims that the front page has the newest post, and links to its own host
// alone, of those that are the blog's.
func (d *demo) frontPage(ctx context.Context, site, host string) error {
	page, err := d.get(ctx, site, host, "/", "cat")
	if err != nil {
		return err
	}
	hosts := map[string]int{}
	for _, m := range link.FindAllStringSubmatch(page, -1) {
		if strings.HasSuffix(m[1], "blog.example.org") {
			hosts[m[1]]++
		}
	}
	d.claim(strings.Contains(page, d.newest), "the front page (%d bytes) has the post %q", len(page), d.newest)
	d.claim(len(hosts) == 1 && hosts[host] > 0, "its links are to %s (%d of them), and to no other name of the blog", host, hosts[host])
	return nil
}

func (d *demo) rehearseBlog(ctx context.Context) error {
	out, err := d.rehearse(ctx)
	if err != nil {
		return err
	}
	published, _, _ := strings.Cut(d.posts, "\t")
	d.claim(strings.Contains(out, "answered "+published+"\n"), "the drill logged in to its MariaDB, and counted %s posts", published)
	d.claim(strings.Contains(out, " as "+drillName), "the page was asked for by the drill's name, and had links to that")
	return d.frontPage(ctx, "primary", siteName)
}

func (d *demo) moveBlog(ctx context.Context) error {
	d.say("A last post is published, that no backup has.")
	if err := d.publish(ctx, "primary", "Moving today"); err != nil {
		return err
	}
	return d.move(ctx, "wordpress", "failover", "--planned")
}

func (d *demo) readBlog(ctx context.Context) error {
	if _, _, err := d.show(ctx, "kubectl", "--context", "dr", "-n", namespace, "get", "pods,pvc", "-o", "wide"); err != nil {
		return err
	}
	if err := d.sameBlog(ctx, "dr"); err != nil {
		return err
	}
	log, err := d.kubectl(ctx, "dr", "-n", namespace, "logs", "deployment/wordpress-db")
	if err != nil {
		return err
	}
	d.claim(!strings.Contains(log, "[ERROR]"), "MariaDB started from the snapshot without an error")
	return d.measured(ctx)
}

func (d *demo) bringBlogHome(ctx context.Context) error {
	d.say("A post is published at the recovery site.")
	if err := d.publish(ctx, "dr", "Written at remote"); err != nil {
		return err
	}
	if err := d.goHome(ctx, "wordpress"); err != nil {
		return err
	}
	if err := d.sameBlog(ctx, "primary"); err != nil {
		return err
	}
	return d.measured(ctx)
}

// sameBlog claims that a site serves everything that was ever published.
func (d *demo) sameBlog(ctx context.Context, site string) error {
	posts, err := d.sql(ctx, site, allPosts)
	if err != nil {
		return err
	}
	d.claim(posts == d.posts, "every post is there, and what it was: %s", strings.TrimSpace(posts))
	var errs []error
	same := 0
	for _, p := range d.pictures {
		sum, err := d.get(ctx, site, siteName, p.path, "sha256sum")
		errs = append(errs, err)
		if strings.HasPrefix(sum, p.sum) {
			same++
		}
	}
	d.claim(same == len(d.pictures), "%d of %d uploaded pictures have the checksum they had", same, len(d.pictures))
	return errors.Join(append(errs, d.frontPage(ctx, site, siteName))...)
}
