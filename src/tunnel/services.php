<?php
// Run by a master to tell which services it offers. The stream gets {value: {NAME: {name, metadata}}}, or
// {error: {class, message, code}}. Metadata that cannot be sent is sent empty.
return function ($stream) use ($room, $levels) {
    try {
        $services = \ReactphpX\RegisterCenter\ServiceRegistry::getServiceNameAndMetadata();
        $flags = JSON_PARTIAL_OUTPUT_ON_ERROR | JSON_INVALID_UTF8_SUBSTITUTE | JSON_PRESERVE_ZERO_FRACTION;
        $json = json_encode($services, $flags);
        $services = json_decode($json, true, $levels, JSON_THROW_ON_ERROR);
        if (strlen($json) + 32 * count($services, COUNT_RECURSIVE) > $room) {
            throw new \LengthException('more services than fit into a message');
        }
        $stream->end(['value' => $services]);
    } catch (\Throwable $error) {
        $stream->end(['error' => [
            'class' => strstr(get_class($error) . "\0", "\0", true),
            'message' => substr($error->getMessage(), 0, 8192),
            'code' => is_int($error->getCode()) ? $error->getCode() : 0,
        ]]);
    }
    return $stream;
};
