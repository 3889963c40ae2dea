CREATE TABLE customer (customer_id int PRIMARY KEY, name text NOT NULL, tier text, since date);
INSERT INTO customer VALUES (1, 'Kim', 'gold', '2024-03-01'), (2, 'Lee', NULL, '2025-07-15'), (3, 'Park', 'silver', NULL);
