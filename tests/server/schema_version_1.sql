-- A database as version 1 wrote it: a job that is done, and one that is queued with a key and a webhook.
BEGIN TRANSACTION;
CREATE TABLE jobs (
	id BIGINT NOT NULL, 
	sequence BIGINT NOT NULL, 
	endpoint TEXT NOT NULL, 
	owner TEXT NOT NULL, 
	state TEXT NOT NULL, 
	request TEXT NOT NULL, 
	delivery TEXT NOT NULL, 
	warnings TEXT NOT NULL, 
	meta TEXT NOT NULL, 
	files TEXT NOT NULL, 
	"temp" BOOLEAN NOT NULL, 
	lane_rows INTEGER NOT NULL, 
	created FLOAT NOT NULL, 
	started FLOAT, 
	finished FLOAT, 
	attempts INTEGER NOT NULL, 
	server TEXT DEFAULT '' NOT NULL, 
	cancel_asked BOOLEAN NOT NULL, 
	expired BOOLEAN NOT NULL, 
	result TEXT, 
	error TEXT NOT NULL, 
	error_kind TEXT NOT NULL, 
	idempotency_key TEXT, 
	PRIMARY KEY (id), 
	CONSTRAINT jobs_by_sequence UNIQUE (sequence), 
	CONSTRAINT jobs_by_idempotency_key UNIQUE (owner, idempotency_key)
);
INSERT INTO "jobs" VALUES(12,1,'community','','done','{}','{}','[]','{}','["x.png"]',0,0,1.0,1000.0,1000.0,1,'old',0,0,'{"seconds": 1.5}','','',NULL);
INSERT INTO "jobs" VALUES(11,2,'pony','ann','queued','{"prompt": "a"}','{}','[]','{}','[]',0,0,2.0,NULL,NULL,0,'',0,0,NULL,'','','k');
CREATE TABLE schema_version (
	version INTEGER NOT NULL
);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE servers (
	name TEXT NOT NULL, 
	heartbeat FLOAT NOT NULL, 
	PRIMARY KEY (name)
);
CREATE TABLE sweeps (
	time FLOAT NOT NULL
);
CREATE TABLE webhooks (
	job_id BIGINT NOT NULL, 
	url TEXT NOT NULL, 
	host TEXT NOT NULL, 
	base_url TEXT NOT NULL, 
	call_id TEXT NOT NULL, 
	status TEXT NOT NULL, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	next_attempt FLOAT, 
	last_error TEXT DEFAULT '' NOT NULL, 
	PRIMARY KEY (job_id), 
	FOREIGN KEY(job_id) REFERENCES jobs (id)
);
INSERT INTO "webhooks" VALUES(11,'https://example.org/hook','example.org','http://here','000102030405060708090a0b0c0d0e0f','waiting',0,NULL,'');
CREATE INDEX jobs_by_state ON jobs (state, sequence);
CREATE INDEX jobs_by_end ON jobs (expired, finished);
CREATE INDEX webhooks_due ON webhooks (status, next_attempt);
COMMIT;
