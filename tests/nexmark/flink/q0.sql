CREATE TABLE done (auction BIGINT, bidder BIGINT, price BIGINT, date_time TIMESTAMP_LTZ(3), extra STRING) WITH ('connector' = 'blackhole');
INSERT INTO done SELECT auction, bidder, price, date_time, extra FROM bid
