-- a route that redirects leads to no upstream
alter table routes alter column upstream_id drop not null;
