<?php
// A page that shows a node of ZooKeeper: php -S 127.0.0.1:8000 page.php
require __DIR__ . '/../../php/autoload.php';

header('Content-Type: text/plain; charset=utf-8');
$node = Roster\Client::local()->get('/greeting');
echo $node === null ? 'There is no /greeting: create it in ZooKeeper.' : "{$node->data}, as it was {$node->freshness->ageMs} ms ago", "\n";
