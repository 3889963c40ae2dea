SELECT auction, bidder, price, extra FROM bid
