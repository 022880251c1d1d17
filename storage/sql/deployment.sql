-- Which deployment this is, and where else it may run.

-- name: database_identity
select system_identifier, (select oid from pg_database where datname = current_database()) from pg_control_system()

-- name: beating_elsewhere
select h.host, h.node from hosts h join heartbeats b using (domain, epoch)
where h.ended_at is null and h.node <> all ($1::text[]) and b.at > now() - make_interval(secs => $2)
limit 1
