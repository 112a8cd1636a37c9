#!/bin/sh
# Once, when the database is empty: the two roles, and a database that belongs to the one that may change tables. PostgreSQL's
# image runs this from /docker-entrypoint-initdb.d.
set -eu

psql --no-psqlrc --quiet --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
  --set owner="$(cat "$PASSWORDS/owner.password")" --set service="$(cat "$PASSWORDS/service.password")" <<'SQL'
CREATE ROLE tapline_owner LOGIN PASSWORD :'owner';
CREATE ROLE tapline_service LOGIN PASSWORD :'service';
CREATE DATABASE tapline OWNER tapline_owner;
REVOKE ALL ON DATABASE tapline FROM PUBLIC;
GRANT CONNECT ON DATABASE tapline TO tapline_service;
SQL
