"""The actions of Batch and CVM: parameters, response documents, and paging."""
