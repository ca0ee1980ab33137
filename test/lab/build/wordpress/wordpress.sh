#!/bin/sh
# Starts WordPress as the image docker.io/library/wordpress does: an empty document
# root gets its files.
set -eu
root=/var/www/html
if [ ! -e "$root/wp-config.php" ]; then
	tar -xf /usr/src/wordpress.tar -C "$root"
	chown -R www-data:www-data "$root"
	# Its presence says that everything else is there.
	cp /usr/src/wp-config.php "$root/wp-config.php"
fi
exec apache2 -DFOREGROUND
