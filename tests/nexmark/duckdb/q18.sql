SELECT bidder, auction, price, channel, url, extra
FROM   bid
QUALIFY row_number() OVER (PARTITION BY bidder, auction ORDER BY event_time DESC, _partition DESC, _offset DESC) = 1
