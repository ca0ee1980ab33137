#!/bin/sh
# Starts MariaDB from the same variables as the image docker.io/library/mariadb: an
# empty data folder gets the system tables, a database and its user. Arguments are
# options of the server.
set -eu
data=/var/lib/mysql

# escaped is a value as a string in SQL has it.
escaped() { printf %s "$1" | sed "s/['\\\\]/\\\\&/g"; }

# initial is what a new server is told, a statement in a line. The password is in no
# command line.
initial() {
	echo "CREATE DATABASE mysql;"
	echo "USE mysql;"
	echo "SET @auth_root_socket = 'root';"
	cat /usr/share/mysql/mysql_system_tables.sql /usr/share/mysql/mysql_system_tables_data.sql
	echo "FLUSH PRIVILEGES;"
	echo "CREATE DATABASE \`$MARIADB_DATABASE\`;"
	echo "CREATE USER '$(escaped "$MARIADB_USER")'@'%' IDENTIFIED BY '$(escaped "$MARIADB_PASSWORD")';"
	echo "GRANT ALL ON \`$MARIADB_DATABASE\`.* TO '$(escaped "$MARIADB_USER")'@'%';"
}

chown mysql:mysql "$data"
if [ ! -d "$data/mysql" ]; then
	rm -rf "$data/.new"
	mkdir "$data/.new"
	chown mysql:mysql "$data/.new"
	initial | mariadbd "$@" --user=mysql --datadir="$data/.new" --bootstrap
	# Its presence says that everything else is there.
	mv "$data/.new/mysql" "$data/.mysql"
	mv "$data"/.new/* "$data"
	rmdir "$data/.new"
	mv "$data/.mysql" "$data/mysql"
fi
exec mariadbd "$@" --user=mysql --datadir="$data"
