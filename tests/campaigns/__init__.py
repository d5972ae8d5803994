"""What tests/campaign.py does, a part a file: files damaged, code changed, processes killed, machines that are not as they should be."""
