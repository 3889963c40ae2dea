CREATE TABLE done (auction BIGINT, price BIGINT) WITH ('connector' = 'blackhole');
INSERT INTO done SELECT auction, price FROM bid WHERE MOD(auction, 123) = 0
