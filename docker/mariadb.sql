-- A table whose changes Debezium sends to Kafka, and the user that it reads as. Try, while the stack runs:
--   UPDATE fleet.customer SET name = 'Ann' WHERE customer_id = 1;
CREATE TABLE fleet.customer (customer_id INT PRIMARY KEY, name VARCHAR(80), email VARCHAR(120));
INSERT INTO fleet.customer VALUES (1, 'Minseo', 'minseo@example.com'), (2, 'Jiho', 'jiho@example.com');
CREATE USER debezium@'127.0.0.1' IDENTIFIED BY 'debezium';
GRANT SELECT, RELOAD, SHOW DATABASES, REPLICATION SLAVE, REPLICATION CLIENT, BINLOG MONITOR ON *.* TO debezium@'127.0.0.1';
