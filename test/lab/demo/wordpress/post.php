<?php
// Publishes a post of the given title, with a picture that nobody has seen before, and
// says where that is.
require '/var/www/html/wp-load.php';
[, $title] = $argv;
$id = wp_insert_post(['post_title' => $title, 'post_content' => bin2hex(random_bytes(2048)), 'post_status' => 'publish']);

const SIDE = 400;
function chunk($type, $data) { return pack('N', strlen($data)) . $type . $data . pack('N', crc32($type . $data)); }
$rows = '';
for ($y = 0; $y < SIDE; $y++) {
	$rows .= "\0" . random_bytes(3 * SIDE);
}
$png = "\x89PNG\r\n\x1a\n" . chunk('IHDR', pack('NNC5', SIDE, SIDE, 8, 2, 0, 0, 0)) . chunk('IDAT', gzcompress($rows, 0)) . chunk('IEND', '');
$upload = wp_upload_bits(sanitize_title($title) . '.png', null, $png);
if (!$id || $upload['error']) {
	fwrite(STDERR, $upload['error']);
	exit(1);
}
$picture = wp_insert_attachment(['post_title' => $title, 'post_mime_type' => 'image/png'], $upload['file'], $id);
wp_update_attachment_metadata($picture, ['width' => SIDE, 'height' => SIDE, 'file' => _wp_relative_upload_path($upload['file'])]);
set_post_thumbnail($id, $picture);
echo parse_url($upload['url'], PHP_URL_PATH), ' ', hash('sha256', $png), "\n";
