//! The columns of PostgreSQL's catalogs, version 16, in their order ("System Catalogs", "System Views" and "The Information
//! Schema" of its manual). A letter says of which type a column is; what is not told has its type's usual empty value.

/// Name of a table and its columns: `name:letter`, divided by blanks.
///
/// `o` oid, `n` name, `t` text, `c` "char", `b` boolean, `s` smallint, `i` integer, `l` bigint, `f` real, `z` timestamp with
/// time zone, `S` smallint[], `O` oid[], `T` text[]. A letter behind `?` is NULL where nothing is told.
pub(super) const TABLES: &[(&str, &str)] = &[
    ("pg_aggregate", "aggfnoid:o aggkind:c aggnumdirectargs:s aggtransfn:t aggfinalfn:t"),
    ("pg_am", "oid:o amname:n amhandler:t amtype:c"),
    ("pg_attrdef", "oid:o adrelid:o adnum:s adbin:t"),
    (
        "pg_attribute",
        "attrelid:o attname:n atttypid:o attlen:s attnum:s attcacheoff:i atttypmod:i attndims:s attbyval:b attalign:c \
         attstorage:c attcompression:c attnotnull:b atthasdef:b atthasmissing:b attidentity:c attgenerated:c attisdropped:b \
         attislocal:b attinhcount:s attcollation:o attstattarget:s attacl:?T attoptions:?T attfdwoptions:?T attmissingval:?T",
    ),
    ("pg_auth_members", "oid:o roleid:o member:o grantor:o admin_option:b inherit_option:b set_option:b"),
    ("pg_available_extensions", "name:n default_version:t installed_version:?t comment:t"),
    ("pg_cast", "oid:o castsource:o casttarget:o castfunc:o castcontext:c castmethod:c"),
    (
        "pg_class",
        "oid:o relname:n relnamespace:o reltype:o reloftype:o relowner:o relam:o relfilenode:o reltablespace:o relpages:i \
         reltuples:f relallvisible:i reltoastrelid:o relhasindex:b relisshared:b relpersistence:c relkind:c relnatts:s \
         relchecks:s relhasrules:b relhastriggers:b relhassubclass:b relrowsecurity:b relforcerowsecurity:b \
         relispopulated:b relreplident:c relispartition:b relrewrite:o relfrozenxid:o relminmxid:o relacl:?T reloptions:?T \
         relpartbound:?t",
    ),
    (
        "pg_collation",
        "oid:o collname:n collnamespace:o collowner:o collprovider:c collisdeterministic:b collencoding:i collcollate:?t \
         collctype:?t colliculocale:?t collicurules:?t collversion:?t",
    ),
    (
        "pg_constraint",
        "oid:o conname:n connamespace:o contype:c condeferrable:b condeferred:b convalidated:b conrelid:o contypid:o \
         conindid:o conparentid:o confrelid:o confupdtype:c confdeltype:c confmatchtype:c conislocal:b coninhcount:s \
         connoinherit:b conkey:?S confkey:?S conpfeqop:?O conppeqop:?O conffeqop:?O confdelsetcols:?S conexclop:?O conbin:?t",
    ),
    (
        "pg_conversion",
        "oid:o conname:n connamespace:o conowner:o conforencoding:i contoencoding:i conproc:t condefault:b",
    ),
    (
        "pg_database",
        "oid:o datname:n datdba:o encoding:i datlocprovider:c datistemplate:b datallowconn:b datconnlimit:i \
         datfrozenxid:o datminmxid:o dattablespace:o datcollate:t datctype:t daticulocale:?t daticurules:?t \
         datcollversion:?t datacl:?T",
    ),
    ("pg_db_role_setting", "setdatabase:o setrole:o setconfig:?T"),
    ("pg_default_acl", "oid:o defaclrole:o defaclnamespace:o defaclobjtype:c defaclacl:?T"),
    ("pg_depend", "classid:o objid:o objsubid:i refclassid:o refobjid:o refobjsubid:i deptype:c"),
    ("pg_description", "objoid:o classoid:o objsubid:i description:t"),
    ("pg_enum", "oid:o enumtypid:o enumsortorder:f enumlabel:n"),
    ("pg_event_trigger", "oid:o evtname:n evtevent:n evtowner:o evtfoid:o evtenabled:c evttags:?T"),
    (
        "pg_extension",
        "oid:o extname:n extowner:o extnamespace:o extrelocatable:b extversion:t extconfig:?O extcondition:?T",
    ),
    ("pg_foreign_data_wrapper", "oid:o fdwname:n fdwowner:o fdwhandler:o fdwvalidator:o fdwacl:?T fdwoptions:?T"),
    ("pg_foreign_server", "oid:o srvname:n srvowner:o srvfdw:o srvtype:?t srvversion:?t srvacl:?T srvoptions:?T"),
    ("pg_foreign_table", "ftrelid:o ftserver:o ftoptions:?T"),
    (
        "pg_index",
        "indexrelid:o indrelid:o indnatts:s indnkeyatts:s indisunique:b indnullsnotdistinct:b indisprimary:b \
         indisexclusion:b indimmediate:b indisclustered:b indisvalid:b indcheckxmin:b indisready:b indislive:b \
         indisreplident:b indkey:V indcollation:W indclass:W indoption:V indexprs:?t indpred:?t",
    ),
    ("pg_indexes", "schemaname:n tablename:n indexname:n tablespace:?n indexdef:t"),
    ("pg_get_keywords", "word:t catcode:c barelabel:b catdesc:t baredesc:t"),
    ("pg_inherits", "inhrelid:o inhparent:o inhseqno:i inhdetachpending:b"),
    (
        "pg_language",
        "oid:o lanname:n lanowner:o lanispl:b lanpltrusted:b lanplcallfoid:o laninline:o lanvalidator:o lanacl:?T",
    ),
    (
        "pg_locks",
        "locktype:t database:?o relation:?o page:?i tuple:?s virtualxid:?t transactionid:?o classid:?o objid:?o \
         objsubid:?s virtualtransaction:t pid:i mode:t granted:b fastpath:b waitstart:?z",
    ),
    ("pg_matviews", "schemaname:n matviewname:n matviewowner:n tablespace:?n hasindexes:b ispopulated:b definition:t"),
    ("pg_namespace", "oid:o nspname:n nspowner:o nspacl:?T"),
    (
        "pg_opclass",
        "oid:o opcmethod:o opcname:n opcnamespace:o opcowner:o opcfamily:o opcintype:o opcdefault:b opckeytype:o",
    ),
    ("pg_opfamily", "oid:o opfmethod:o opfname:n opfnamespace:o opfowner:o"),
    (
        "pg_operator",
        "oid:o oprname:n oprnamespace:o oprowner:o oprkind:c oprcanmerge:b oprcanhash:b oprleft:o oprright:o oprresult:o \
         oprcom:o oprnegate:o oprcode:t oprrest:t oprjoin:t",
    ),
    (
        "pg_partitioned_table",
        "partrelid:o partstrat:c partnatts:s partdefid:o partattrs:S partclass:O partcollation:O partexprs:?t",
    ),
    ("pg_policies", "schemaname:n tablename:n policyname:n permissive:t roles:T cmd:t qual:?t with_check:?t"),
    ("pg_policy", "oid:o polname:n polrelid:o polcmd:c polpermissive:b polroles:O polqual:?t polwithcheck:?t"),
    (
        "pg_proc",
        "oid:o proname:n pronamespace:o proowner:o prolang:o procost:f prorows:f provariadic:o prosupport:t prokind:c \
         prosecdef:b proleakproof:b proisstrict:b proretset:b provolatile:c proparallel:c pronargs:s pronargdefaults:s \
         prorettype:o proargtypes:W proallargtypes:?O proargmodes:?T proargnames:?T proargdefaults:?t protrftypes:?O prosrc:t \
         probin:?t prosqlbody:?t proconfig:?T proacl:?T",
    ),
    (
        "pg_publication",
        "oid:o pubname:n pubowner:o puballtables:b pubinsert:b pubupdate:b pubdelete:b pubtruncate:b pubviaroot:b",
    ),
    ("pg_publication_namespace", "oid:o pnpubid:o pnnspid:o"),
    ("pg_publication_rel", "oid:o prpubid:o prrelid:o prqual:?t prattrs:?S"),
    ("pg_publication_tables", "pubname:n schemaname:n tablename:n attnames:T rowfilter:?t"),
    ("pg_range", "rngtypid:o rngsubtype:o rngmultitypid:o rngcollation:o rngsubopc:o rngcanonical:t rngsubdiff:t"),
    ("pg_rewrite", "oid:o rulename:n ev_class:o ev_type:c ev_enabled:c is_instead:b ev_qual:t ev_action:t"),
    (
        "pg_roles",
        "rolname:n rolsuper:b rolinherit:b rolcreaterole:b rolcreatedb:b rolcanlogin:b rolreplication:b rolconnlimit:i \
         rolpassword:t rolvaliduntil:?z rolbypassrls:b rolconfig:?T oid:o",
    ),
    ("pg_rules", "schemaname:n tablename:n rulename:n definition:t"),
    ("pg_seclabel", "objoid:o classoid:o objsubid:i provider:t label:t"),
    ("pg_sequence", "seqrelid:o seqtypid:o seqstart:l seqincrement:l seqmax:l seqmin:l seqcache:l seqcycle:b"),
    (
        "pg_sequences",
        "schemaname:n sequencename:n sequenceowner:n data_type:t start_value:l min_value:l max_value:l increment_by:l cycle:b \
         cache_size:l last_value:?l",
    ),
    (
        "pg_settings",
        "name:t setting:t unit:?t category:t short_desc:t extra_desc:?t context:t vartype:t source:t min_val:?t max_val:?t \
         enumvals:?T boot_val:t reset_val:t sourcefile:?t sourceline:?i pending_restart:b",
    ),
    ("pg_shdescription", "objoid:o classoid:o description:t"),
    (
        "pg_stat_activity",
        "datid:o datname:n pid:i leader_pid:?i usesysid:o usename:n application_name:t client_addr:?t client_hostname:?t \
         client_port:?i backend_start:?z xact_start:?z query_start:?z state_change:?z wait_event_type:?t wait_event:?t state:t \
         backend_xid:?o backend_xmin:?o query_id:?l query:t backend_type:t",
    ),
    (
        "pg_stat_user_tables",
        "relid:o schemaname:n relname:n seq_scan:l seq_tup_read:l idx_scan:l idx_tup_fetch:l n_tup_ins:l n_tup_upd:l \
         n_tup_del:l n_live_tup:l n_dead_tup:l last_vacuum:?z last_autovacuum:?z last_analyze:?z last_autoanalyze:?z",
    ),
    ("pg_statio_user_tables", "relid:o schemaname:n relname:n heap_blks_read:l heap_blks_hit:l"),
    (
        "pg_statistic_ext",
        "oid:o stxrelid:o stxname:n stxnamespace:o stxowner:o stxstattarget:i stxkeys:S stxkind:T stxexprs:?t",
    ),
    (
        "pg_stats",
        "schemaname:n tablename:n attname:n inherited:b null_frac:f avg_width:i n_distinct:f most_common_vals:?T \
         most_common_freqs:?T histogram_bounds:?T correlation:?f most_common_elems:?T most_common_elem_freqs:?T \
         elem_count_histogram:?T",
    ),
    ("pg_subscription", "oid:o subdbid:o subname:n subowner:o subenabled:b"),
    (
        "pg_tables",
        "schemaname:n tablename:n tableowner:n tablespace:?n hasindexes:b hasrules:b hastriggers:b rowsecurity:b",
    ),
    ("pg_tablespace", "oid:o spcname:n spcowner:o spcacl:?T spcoptions:?T"),
    (
        "pg_amop",
        "oid:o amopfamily:o amoplefttype:o amoprighttype:o amopstrategy:s amoppurpose:c amopopr:o amopmethod:o",
    ),
    ("pg_amproc", "oid:o amprocfamily:o amproclefttype:o amprocrighttype:o amprocnum:s amproc:t"),
    ("pg_largeobject_metadata", "oid:o lomowner:o lomacl:?T"),
    ("pg_transform", "oid:o trftype:o trflang:o trffromsql:t trftosql:t"),
    ("pg_ts_config", "oid:o cfgname:n cfgnamespace:o cfgowner:o cfgparser:o"),
    ("pg_ts_dict", "oid:o dictname:n dictnamespace:o dictowner:o dicttemplate:o dictinitoption:?t"),
    ("pg_ts_parser", "oid:o prsname:n prsnamespace:o"),
    ("pg_ts_template", "oid:o tmplname:n tmplnamespace:o"),
    ("pg_user_mapping", "oid:o umuser:o umserver:o umoptions:?T"),
    ("pg_timezone_names", "name:t abbrev:t utc_offset:t is_dst:b"),
    (
        "pg_trigger",
        "oid:o tgrelid:o tgparentid:o tgname:n tgfoid:o tgtype:s tgenabled:c tgisinternal:b tgconstrrelid:o tgconstrindid:o \
         tgconstraint:o tgdeferrable:b tginitdeferred:b tgnargs:s tgattr:S tgargs:t tgqual:?t tgoldtable:?n tgnewtable:?n",
    ),
    (
        "pg_type",
        "oid:o typname:n typnamespace:o typowner:o typlen:s typbyval:b typtype:c typcategory:c typispreferred:b \
         typisdefined:b typdelim:c typrelid:o typsubscript:t typelem:o typarray:o typinput:t typoutput:t typreceive:t typsend:t \
         typmodin:t typmodout:t typanalyze:t typalign:c typstorage:c typnotnull:b typbasetype:o typtypmod:i typndims:i \
         typcollation:o typdefaultbin:?t typdefault:?t typacl:?T",
    ),
    (
        "pg_user",
        "usename:n usesysid:o usecreatedb:b usesuper:b userepl:b usebypassrls:b passwd:t valuntil:?z useconfig:?T",
    ),
    ("pg_user_mappings", "umid:o srvid:o srvname:n umuser:o usename:n umoptions:?T"),
    ("pg_views", "schemaname:n viewname:n viewowner:n definition:t"),
    ("information_schema.character_sets", "character_set_catalog:n character_set_schema:n character_set_name:n"),
    (
        "information_schema.columns",
        "table_catalog:n table_schema:n table_name:n column_name:n ordinal_position:i column_default:?t is_nullable:t \
         data_type:t character_maximum_length:?i character_octet_length:?i numeric_precision:?i numeric_precision_radix:?i \
         numeric_scale:?i datetime_precision:?i interval_type:?t interval_precision:?i character_set_catalog:?n \
         character_set_schema:?n character_set_name:?n collation_catalog:?n collation_schema:?n collation_name:?n \
         domain_catalog:?n domain_schema:?n domain_name:?n udt_catalog:n udt_schema:n udt_name:n scope_catalog:?n \
         scope_schema:?n scope_name:?n maximum_cardinality:?i dtd_identifier:n is_self_referencing:t is_identity:t \
         identity_generation:?t identity_start:?t identity_increment:?t identity_maximum:?t identity_minimum:?t \
         identity_cycle:t is_generated:t generation_expression:?t is_updatable:t",
    ),
    (
        "information_schema.constraint_column_usage",
        "table_catalog:n table_schema:n table_name:n column_name:n constraint_catalog:n constraint_schema:n constraint_name:n",
    ),
    (
        "information_schema.key_column_usage",
        "constraint_catalog:n constraint_schema:n constraint_name:n table_catalog:n table_schema:n table_name:n column_name:n \
         ordinal_position:i position_in_unique_constraint:?i",
    ),
    (
        "information_schema.parameters",
        "specific_catalog:n specific_schema:n specific_name:n ordinal_position:i parameter_mode:t parameter_name:n data_type:t",
    ),
    (
        "information_schema.referential_constraints",
        "constraint_catalog:n constraint_schema:n constraint_name:n unique_constraint_catalog:n unique_constraint_schema:n \
         unique_constraint_name:n match_option:t update_rule:t delete_rule:t",
    ),
    (
        "information_schema.routines",
        "specific_catalog:n specific_schema:n specific_name:n routine_catalog:n routine_schema:n routine_name:n routine_type:t \
         data_type:t routine_definition:t external_language:t",
    ),
    (
        "information_schema.schemata",
        "catalog_name:n schema_name:n schema_owner:n default_character_set_catalog:?n default_character_set_schema:?n \
         default_character_set_name:?n sql_path:?t",
    ),
    ("information_schema.sequences", "sequence_catalog:n sequence_schema:n sequence_name:n data_type:t"),
    (
        "information_schema.table_constraints",
        "constraint_catalog:n constraint_schema:n constraint_name:n table_catalog:n table_schema:n table_name:n \
         constraint_type:t is_deferrable:t initially_deferred:t enforced:t nulls_distinct:?t",
    ),
    (
        "information_schema.table_privileges",
        "grantor:n grantee:n table_catalog:n table_schema:n table_name:n privilege_type:t is_grantable:t with_hierarchy:t",
    ),
    (
        "information_schema.tables",
        "table_catalog:n table_schema:n table_name:n table_type:t self_referencing_column_name:?n reference_generation:?t \
         user_defined_type_catalog:?n user_defined_type_schema:?n user_defined_type_name:?n is_insertable_into:t is_typed:t \
         commit_action:?t",
    ),
    ("information_schema.triggers", "trigger_catalog:n trigger_schema:n trigger_name:n event_object_table:n"),
    (
        "information_schema.views",
        "table_catalog:n table_schema:n table_name:n view_definition:t check_option:t is_updatable:t is_insertable_into:t \
         is_trigger_updatable:t is_trigger_deletable:t is_trigger_insertable_into:t",
    ),
];
