CREATE TABLE workshop (car_id varchar(20) PRIMARY KEY, job text, due date, cost decimal(8,2));
INSERT INTO workshop VALUES ('car-00001', 'tyres', '2026-12-01', 480.00), ('car-00002', 'brakes', NULL, NULL);
